// Package proxy is the TCP proxy in every agent: a read-write port that
// follows the primary of a router.Table, and a read-only port spread over its
// replicas.
//
// It owns the client connections made to its ports and the connections to
// instances made for them. It never decides who is primary, never looks into a
// session, and never speaks MySQL beyond one error packet in place of a
// greeting.
//
// What it keeps true:
//
//   - I5: what a client is joined to is checked against the table in the same
//     critical section that registers it, so once Table.Apply has returned none
//     is joined against it. Sessions that exist already are cut as soon as the
//     proxy is scheduled.
//   - A client is joined only when its instance has begun to greet it. Until
//     then it knows nothing and can be led elsewhere: a primary that dies,
//     freezes or resets while it is being connected to costs latency only.
//   - Whatever waits is bounded, in time and in number, and gives its place
//     free as soon as its client leaves.
//   - Every goroutine ends before Run returns.
//
// Start reading at Proxy.Run, then port.establish.
package proxy
