package dsql

import (
	"crypto/tls"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dsqlgo/dsql/internal/configerr"
)

// validate checks every field but the names, which resolveNames checks together.
func (c Config) validate() error {
	for field, value := range map[string]string{"User": c.User, "Database": c.Database, "ApplicationName": c.ApplicationName} {
		if strings.ContainsRune(value, 0) {
			return configerr.New(field, "contains a NUL character, which ends a value in the protocol; remove it")
		}
	}
	switch {
	case c.Transport != "" && c.Transport != transportTCP && c.Transport != transportWebSocket && c.Transport != transportAuto:
		return configerr.New("Transport", "is %q; set it to tcp (the default), websocket or auto", c.Transport)
	case c.SSLNegotiation != "" && c.SSLNegotiation != "direct" && c.SSLNegotiation != "postgres":
		return configerr.New("SSLNegotiation", "is %q; set it to direct (the default) or postgres", c.SSLNegotiation)
	case c.ConnectTimeout < 0:
		return configerr.New("ConnectTimeout", "is %s; set it to a time above 0, or to 0 for %s", c.ConnectTimeout, defaultConnectTimeout)
	case math.IsNaN(c.ConnectRate) || math.IsInf(c.ConnectRate, 0):
		return configerr.New("ConnectRate", "is %v; set it to a number of connections a second, to 0 for the default, or below 0 for no limit", c.ConnectRate)
	case c.ConnectBurst < 0:
		return configerr.New("ConnectBurst", "is %d; set it to a number of connections above 0, or to 0 for the default", c.ConnectBurst)
	case c.RoleARN == "" && c.RoleSessionName != "":
		return configerr.New("RoleSessionName", "is set, but RoleARN is not; set both or neither")
	case c.RoleARN == "" && c.ExternalID != "":
		return configerr.New("ExternalID", "is set, but RoleARN is not; set both or neither")
	}
	if c.TokenLifetime != 0 {
		if err := validateTokenLifetime(c.TokenLifetime); err != nil {
			return err
		}
	}
	return validateParams(c.Params)
}

// maxTokenLifetime is SigV4's limit for a presigned request (AWS guide, "Generating an
// authentication token": at most 604,800 s).
const maxTokenLifetime = 7 * 24 * time.Hour

// validateTokenLifetime checks a TokenLifetime that is set; so 0 is out of range here. It takes
// whole seconds only because X-Amz-Expires counts seconds.
func validateTokenLifetime(d time.Duration) error {
	if d < time.Second || d > maxTokenLifetime || d%time.Second != 0 {
		return configerr.New("TokenLifetime", "is %v; set it to whole seconds from 1 s to 7 days (604800 s)", d)
	}
	return nil
}

// fieldOfParam names the Config field for parameters that do not belong in Params.
var fieldOfParam = map[string]string{
	"host": "Host", "hostaddr": "DialAddress", "port": "Port", "user": "User", "dbname": "Database", "database": "Database",
	"connect_timeout": "ConnectTimeout", "application_name": "ApplicationName",
	"sslrootcert": "RootCAs", "sslnegotiation": "SSLNegotiation",
	"cluster_id": "ClusterID", "region": "Region", "dial_address": "DialAddress", "server_name": "ServerName", "transport": "Transport",
	"profile": "Profile", "role_arn": "RoleARN", "role_session_name": "RoleSessionName", "external_id": "ExternalID",
	"token_lifetime": "TokenLifetime", "early_auth": "EarlyAuth", "connect_rate": "ConnectRate", "connect_burst": "ConnectBurst",
}

// forbiddenParams would change how the login is made.
var forbiddenParams = []string{
	"password", "passfile", "service", "servicefile", "sslmode", "sslcert", "sslkey", "sslpassword", "sslcertmode", "sslsni",
	"require_auth", "channel_binding", "krbsrvname", "krbspn",
}

func validateParams(params map[string]string) error {
	for name, value := range params {
		switch {
		case fieldOfParam[name] != "":
			return configerr.New("Params", "contains %q; set Config.%s instead", name, fieldOfParam[name])
		case slices.Contains(forbiddenParams, name):
			return configerr.New("Params", "contains %q, which has no use with DSQL: the token is the password, and TLS is always verify-full; remove it", name)
		case name == "" || strings.ContainsAny(name, "= \t\r\n\v\f\\'\x00"):
			return configerr.New("Params", "contains %q, which cannot be a parameter's name; remove it", name)
		case strings.ContainsRune(value, 0):
			return configerr.New("Params", "%q contains a NUL character, which ends a value in the protocol; remove it", name)
		}
	}
	return nil
}

// validateConnConfig checks the changes that users made to the result of ConnConfig.
func (k *connector) validateConnConfig(config *pgconn.Config) error {
	if err := validateTLSConfig(config.TLSConfig); err != nil {
		return err
	}
	if err := k.validateUser(config.User); err != nil {
		return err
	}
	if name := config.TLSConfig.ServerName; name != k.endpoint.ServerName {
		return configerr.New("ConnConfig.TLSConfig", "has ServerName %q, but the token is signed for %q; set Config.ServerName instead", name, k.endpoint.ServerName)
	}
	return nil
}

func (k *connector) validateUser(user string) error {
	if (user == adminUser) != (k.user == adminUser) {
		return configerr.New("ConnConfig.User", "was changed from %q to %q, but tokens for admin and for other roles differ; set Config.User instead", k.user, user)
	}
	return nil
}

func validateTLSConfig(c *tls.Config) error {
	switch {
	case c == nil:
		return configerr.New("ConnConfig.TLSConfig", "was set to nil, but DSQL requires TLS; keep the one that ConnConfig returned, or change fields in it")
	case c.InsecureSkipVerify:
		return configerr.New("ConnConfig.TLSConfig", "skips verification, so any server could get the token; add the missing root to Config.RootCAs instead")
	case c.MinVersion != 0 && c.MinVersion < tls.VersionTLS12:
		return configerr.New("ConnConfig.TLSConfig", "allows TLS below 1.2, which DSQL refuses; keep the MinVersion that ConnConfig returned")
	case c.ServerName == "":
		return configerr.New("ConnConfig.TLSConfig", "has no ServerName, by which the server finds the cluster; change fields of the one that ConnConfig returned")
	}
	return nil
}
