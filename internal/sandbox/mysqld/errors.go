package mysqld

import "errors"

// ErrExited is returned by Start when the server ended before it was ready.
// The message has the last lines of its log.
var ErrExited = errors.New("mysqld exited before it was ready")

// ErrNotMySQL is returned by Find when the program that was named is not a
// MySQL server, MariaDB included.
var ErrNotMySQL = errors.New("not a MySQL server")
