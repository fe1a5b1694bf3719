// Package nginx runs a real nginx from a folder, as the current user, on high
// ports: the one that is installed if it has the stream module, else the
// distribution's own packages, unpacked in the user's cache.
//
// It owns the process and the directives that keep nginx inside its folder. It
// never writes a configuration: that is the caller's, begun with Main and,
// inside http, with HTTP. It never touches the host's own nginx service.
//
// Start reading at nginx.go.
package nginx
