// Package mysqldtest starts real servers for tests. It owns nothing but what
// a test asks for, and ends each server when its test ends.
package mysqldtest
