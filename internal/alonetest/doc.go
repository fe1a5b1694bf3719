// Package alonetest lets a test run while no test of another package has a
// cluster under load: beside one, two cores are too few for five nodes that are
// cut apart, or for clients at full speed. Packages' tests are processes of their
// own, so they take turns by locks on files, which end with the process.
//
// What else those processes do, such as compiling, goes on.
package alonetest
