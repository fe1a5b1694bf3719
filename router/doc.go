// Package router holds the route table: where writes and reads go, ordered by
// epoch. Those who obey it are in its folders: router/proxy (the TCP proxy in
// every agent) and router/nginx (upstream blocks of an nginx configuration).
//
// It never decides who is primary, and it never goes back to a lower epoch
// (I5). Start reading at Route and Table.
package router
