package dsql

import (
	"crypto/tls"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dsqlgo/dsql/internal/configerr"
)

// validate checks the fields whose values can be judged alone; resolveNames checks the names.
func (c Config) validate() error {
	for field, value := range map[string]string{"User": c.User, "Database": c.Database, "ApplicationName": c.ApplicationName} {
		if strings.ContainsRune(value, 0) {
			return configerr.New(field, "holds a NUL character, which ends a value on the wire; remove it")
		}
	}
	switch {
	case c.SSLNegotiation != "" && c.SSLNegotiation != "direct" && c.SSLNegotiation != "postgres":
		return configerr.New("SSLNegotiation", "is %q; it is direct (the default) or postgres", c.SSLNegotiation)
	case c.ConnectTimeout < 0:
		return configerr.New("ConnectTimeout", "is %s; it is a time above 0, or 0 for %s", c.ConnectTimeout, defaultConnectTimeout)
	case math.IsNaN(c.ConnectRate) || math.IsInf(c.ConnectRate, 0):
		return configerr.New("ConnectRate", "is %v; it is a number of connections a second, 0 for the default, or negative for no pacing", c.ConnectRate)
	case c.ConnectBurst < 0:
		return configerr.New("ConnectBurst", "is %d; it is a number of connections above 0, or 0 for the default", c.ConnectBurst)
	}
	if c.TokenLifetime != 0 {
		return validateTokenLifetime(c.TokenLifetime)
	}
	return nil
}

// maxTokenLifetime is SigV4's limit for a presigned request (AWS guide,
// "Generating an authentication token": at most 604,800 s).
const maxTokenLifetime = 7 * 24 * time.Hour

// validateTokenLifetime checks a TokenLifetime that is set: 0 is out of range here.
// Seconds are whole because X-Amz-Expires counts them.
func validateTokenLifetime(d time.Duration) error {
	if d < time.Second || d > maxTokenLifetime || d%time.Second != 0 {
		return configerr.New("TokenLifetime", "is %v; set it to whole seconds from 1 s to 7 days (604800 s)", d)
	}
	return nil
}

// validateConnConfig checks what users made of the config that ConnConfig returned.
func (k *connector) validateConnConfig(config *pgconn.Config) error {
	if err := validateTLSConfig(config.TLSConfig); err != nil {
		return err
	}
	if (config.User == adminUser) != (k.user == adminUser) {
		return configerr.New("ConnConfig.User", "was changed from %q to %q, but admin's tokens are signed otherwise than those of all others; set Config.User", k.user, config.User)
	}
	if name := config.TLSConfig.ServerName; name != k.endpoint.ServerName {
		return configerr.New("ConnConfig.TLSConfig", "has ServerName %q, but the token is signed for %q; set Config.ServerName", name, k.endpoint.ServerName)
	}
	return nil
}

func validateTLSConfig(c *tls.Config) error {
	switch {
	case c == nil:
		return configerr.New("ConnConfig.TLSConfig", "was set to nil, but DSQL takes TLS only; leave it as ConnConfig returned it, or change fields in it")
	case c.InsecureSkipVerify:
		return configerr.New("ConnConfig.TLSConfig", "skips verification, which would hand the token to whoever answers; add the missing root to Config.RootCAs")
	case c.MinVersion != 0 && c.MinVersion < tls.VersionTLS12:
		return configerr.New("ConnConfig.TLSConfig", "allows TLS below 1.2, which DSQL does not take; leave MinVersion as ConnConfig returned it")
	case c.ServerName == "":
		return configerr.New("ConnConfig.TLSConfig", "has no ServerName, from which the server finds the cluster; change fields of the one that ConnConfig returned")
	}
	return nil
}
