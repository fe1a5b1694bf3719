package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"interrex/router"
)

// The server error codes clients are shown in place of a greeting. Connectors
// know them and retry on them.
const (
	codeTooManyConnections = 1040 // ER_CON_COUNT_ERROR
	codeShutdown           = 1053 // ER_SERVER_SHUTDOWN
	codeUnavailable        = 3168 // ER_SERVER_ISNT_AVAILABLE
)

// packetWait bounds the writing of an error packet: it fits into any fresh
// socket's buffer, so only a client that is gone takes that long.
const packetWait = time.Second

// maxMessage is the longest error text a server sends (MYSQL_ERRMSG_SIZE).
const maxMessage = 511

// errorPacket is the ERR packet a server sends in place of its greeting. At
// that point no capabilities are agreed on, so there is no SQLSTATE in it
// (a server sends none either) and clients report their HY000.
func errorPacket(code uint16, message string) []byte {
	if len(message) > maxMessage {
		message = message[:maxMessage]
	}
	body := 3 + len(message)
	packet := make([]byte, 0, 4+body)
	packet = append(packet, byte(body), byte(body>>8), byte(body>>16), 0, 0xff)
	packet = binary.LittleEndian.AppendUint16(packet, code)
	return append(packet, message...)
}

// refuse tells a client that was not greeted why it can't be served.
func refuse(conn *net.TCPConn, cluster string, route router.Route, why error) {
	code := uint16(codeUnavailable)
	if errors.Is(why, errStopping) {
		code = codeShutdown
	}
	message := fmt.Sprintf("interrex: cluster %s, epoch %d: %v", cluster, route.Epoch, why)
	if route.Phase == router.Closed && route.Reason != "" {
		message += ": " + route.Reason
	}
	sendPacket(conn, errorPacket(code, message))
}

// sendPacket writes the last packet of a connection. A client that has gone
// meanwhile is no error.
func sendPacket(conn *net.TCPConn, packet []byte) {
	if conn.SetWriteDeadline(time.Now().Add(packetWait)) != nil {
		return
	}
	if _, err := conn.Write(packet); err == nil {
		_ = conn.CloseWrite() // closed for good by its owner
	}
}
