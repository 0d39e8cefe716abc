package dsqltest

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/dsqlgo/dsql/dsqltest/internal/relay"
	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
)

const (
	maxStartup  = 10_000    // bytes: PostgreSQL's MAX_STARTUP_PACKET_LENGTH
	maxPassword = 64 * 1024 // bytes: a token with a session token takes some 2 KiB
)

// What the first packet of a connection can be, beside a startup message of
// protocol 3.x. See "Message Formats" in the PostgreSQL manual.
const (
	tlsHandshake     = 0x16 // content type of a TLS record
	cancelCode       = 80877102
	sslRequestCode   = 80877103
	gssEncCode       = 80877104
	protocolMajor    = 3
	protocolVersion3 = protocolMajor << 16
)

// readPacket reads what has no type byte: a length, a code and a body.
func readPacket(r io.Reader) (code uint32, body []byte, err error) {
	var header [8]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(header[:4])
	if length < uint32(len(header)) || length > maxStartup {
		return 0, nil, errors.New("not a PostgreSQL client: invalid length of the startup packet")
	}
	body = make([]byte, length-uint32(len(header)))
	_, err = io.ReadFull(r, body)
	return binary.BigEndian.Uint32(header[4:]), body, err
}

// startup is what a startup message asks for.
type startup struct {
	user      string
	database  string
	clusterID string            // from the option amzn-cluster-id
	settings  map[string]string // for PostgreSQL, by lower-case name
	refused   string            // the first setting that cannot be made

	negotiate bool     // the client speaks a newer 3.x, or has protocol options
	options   []string // those protocol options
}

func parseStartup(version uint32, body []byte) (*startup, error) {
	if version>>16 != protocolMajor {
		return nil, refuse("0A000", "unsupported frontend protocol %d.%d: server supports 3.0 to 3.0", version>>16, version&0xffff)
	}
	st := &startup{settings: make(map[string]string), negotiate: version != protocolVersion3}
	next := func() (string, bool) {
		value, rest, ok := bytes.Cut(body, []byte{0})
		body = rest
		return string(value), ok
	}
	for {
		name, ok := next()
		if ok && name == "" && len(body) == 0 {
			break
		}
		value, terminated := next()
		if !ok || name == "" || !terminated {
			return nil, refuse("08P01", "invalid startup packet layout: expected terminator as last byte")
		}
		setting := strings.ToLower(name)
		switch {
		case name == "user":
			st.user = value
		case name == "database":
			st.database = value
		case name == "options":
			st.parseOptions(value)
		case strings.HasPrefix(name, "_pq_."):
			st.negotiate = true
			st.options = append(st.options, name)
		case rules.IsSetting(setting):
			st.set(setting, value)
		default:
			st.refuse(name)
		}
	}
	if st.user == "" {
		return nil, refuse("28000", "no PostgreSQL user name specified in startup packet")
	}
	if st.database == "" {
		st.database = st.user
	}
	return st, nil
}

// parseOptions reads what libpq has from PGOPTIONS: "-c name=value", "-cname=value" or
// "--name=value", with a backslash before a blank that belongs to a value.
func (st *startup) parseOptions(options string) {
	fields := splitOptions(options)
	for i := 0; i < len(fields); i++ {
		field := fields[i]
		if field == "-c" && i+1 < len(fields) {
			i++
			field = "-c" + fields[i]
		}
		option, ok := strings.CutPrefix(field, "-c")
		if !ok {
			option, ok = strings.CutPrefix(field, "--")
		}
		name, value, found := strings.Cut(option, "=")
		setting := strings.ToLower(strings.ReplaceAll(name, "-", "_")) // as PostgreSQL does
		switch {
		case ok && name == "amzn-cluster-id":
			st.clusterID = value
		case ok && found && rules.IsSetting(setting):
			st.set(setting, value)
		default:
			st.refuse(cmp.Or(name, field))
		}
	}
}

// splitOptions splits at blanks that have no backslash before them.
func splitOptions(options string) []string {
	var fields []string
	var field []byte
	inside := false
	for i := 0; i < len(options); i++ {
		c := options[i]
		if strings.IndexByte(" \t\n\r\f\v", c) >= 0 {
			if inside {
				fields, field, inside = append(fields, string(field)), nil, false
			}
			continue
		}
		if c == '\\' && i+1 < len(options) {
			i++
			c = options[i]
		}
		field, inside = append(field, c), true
	}
	if inside {
		fields = append(fields, string(field))
	}
	return fields
}

// set notes a setting for PostgreSQL.
func (st *startup) set(name, value string) { st.settings[rules.PostgresSetting(name)] = value }

func (st *startup) refuse(setting string) {
	if st.refused == "" {
		st.refused = setting
	}
}

// check refuses what DSQL does not have.
func (st *startup) check() error {
	if st.refused != "" {
		return refuse("0A000", "setting configuration parameter %q not supported", st.refused)
	}
	if st.database != databaseName {
		return refuse("3D000", "database %q does not exist", st.database)
	}
	return nil
}

func readPassword(r io.Reader) (string, error) {
	var header [relay.HeaderSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return "", fmt.Errorf("waiting for the password: %w", err)
	}
	if header[0] != 'p' {
		return "", refuse("08P01", "expected password response, got message type %d", header[0])
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length < 5 || length > maxPassword {
		return "", refuse("08P01", "invalid length of password packet")
	}
	body := make([]byte, length-4)
	if _, err := io.ReadFull(r, body); err != nil {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	password, ok := bytes.CutSuffix(body, []byte{0})
	if !ok {
		return "", refuse("08P01", "invalid password packet layout: expected terminator as last byte")
	}
	return string(password), nil
}
