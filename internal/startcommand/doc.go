// Package startcommand runs the command by which an operator has a server
// started (mysql.start_command).
//
// The command is done when its program has ended, whatever that leaves behind: a
// server keeps the output it was started with for as long as it runs.
package startcommand
