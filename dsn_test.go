package dsql

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const dsnHost = "abcdefghijklmnopqrstuvwxyz.dsql.us-east-1.on.aws"

func TestParseConfig(t *testing.T) {
	tests := []struct {
		name string
		in   string
		want Config
	}{
		{"shortest URL", "dsql://" + dsnHost, Config{Host: dsnHost}},
		{"postgres scheme", "postgres://" + dsnHost + "/", Config{Host: dsnHost}},
		{"postgresql scheme", "postgresql://" + dsnHost, Config{Host: dsnHost}},
		{"scheme in capitals", "DSQL://" + dsnHost, Config{Host: dsnHost}},
		{"shortest keyword", "host=" + dsnHost, Config{Host: dsnHost}},
		{"space around a URL", "  \n dsql://h/db \t", Config{Host: "h", Database: "db"}},
		{"space around keywords", "  host=h  port=5433 \n", Config{Host: "h", Port: 5433}},
		{"URL with everything", "postgres://app@h:5433/db?region=eu-west-1", Config{Host: "h", Port: 5433, User: "app", Database: "db", Region: "eu-west-1"}},
		{"empty password", "postgres://app:@h", Config{Host: "h", User: "app"}},
		{"empty password parameter", "host=h password=''", Config{Host: "h"}},
		{"empty port", "postgres://h:/db", Config{Host: "h", Database: "db"}},
		{"empty values", "dsql://h?port=&user=&region=&token_lifetime=", Config{Host: "h"}},
		{"query instead of authority", "postgres:///?host=h&port=5433&user=u&dbname=d", Config{Host: "h", Port: 5433, User: "u", Database: "d"}},
		{"host twice alike", "postgres://h:1/d?host=h&port=1&database=d&dbname=d", Config{Host: "h", Port: 1, Database: "d"}},
		{"percent-decoding", "postgres://a%40b@h/my%20db?application%5Fname=a%26b%3Dc+d", Config{Host: "h", User: "a@b", Database: "my db", ApplicationName: "a&b=c+d"}},
		{"an @ in a value", "postgres://admin@h:5432/postgres?role_session_name=me@corp", Config{Host: "h", Port: 5432, User: "admin", Database: "postgres", RoleSessionName: "me@corp"}},
		{"the last @ ends the user", "postgres://a@b@h", Config{Host: "h", User: "a@b"}},
		{"IPv6", "postgres://u@[2001:db8::1]:5433/db", Config{Host: "2001:db8::1", Port: 5433, User: "u", Database: "db"}},
		{"IPv6 with a zone", "postgres://[fe80::1%25eth0]", Config{Host: "fe80::1%eth0"}},
		{"IPv6 keyword", "host=::1", Config{Host: "::1"}},
		{"stray ampersands", "dsql://h?&region=r&&", Config{Host: "h", Region: "r"}},
		{"names in capitals", "Host=h CLUSTER_ID=c", Config{Host: "h", ClusterID: "c"}},

		{"quotes", `host=h application_name='a b\'c\\d'`, Config{Host: "h", ApplicationName: `a b'c\d`}},
		{"no space after a quote", `application_name='a'host=h`, Config{Host: "h", ApplicationName: "a"}},
		{"nothing after =", "host=h user= ", Config{Host: "h"}},
		{"space around =", "host = h\tuser\t=\n u\nregion=r", Config{Host: "h", User: "u", Region: "r"}},
		{"backslash outside quotes", `host=h application_name=a\ b\'c`, Config{Host: "h", ApplicationName: "a b'c"}},
		{"backslash at the end", `host=h application_name=a\`, Config{Host: "h", ApplicationName: "a"}},
		{"escaped space at the end", `host=h application_name=a\ `, Config{Host: "h", ApplicationName: "a "}},
		{"= and :// in a value", "host=h application_name=a=b://c", Config{Host: "h", ApplicationName: "a=b://c"}},

		{"ours", "dsql://h?cluster_id=c&region=r&dial_address=127.0.0.1:15432&server_name=s&profile=p" +
			"&role_arn=arn:aws:iam::123456789012:role/x&role_session_name=n&external_id=e&token_lifetime=5m" +
			"&early_auth=true&sslnegotiation=postgres&connect_timeout=3&connect_rate=12.5&connect_burst=40&application_name=a",
			Config{
				Host: "h", ClusterID: "c", Region: "r", DialAddress: "127.0.0.1:15432", ServerName: "s", Profile: "p",
				RoleARN: "arn:aws:iam::123456789012:role/x", RoleSessionName: "n", ExternalID: "e", TokenLifetime: 5 * time.Minute,
				EarlyAuth: true, SSLNegotiation: "postgres", ConnectTimeout: 3 * time.Second, ConnectRate: 12.5, ConnectBurst: 40, ApplicationName: "a",
			}},
		{"no pacing", "host=h connect_rate=-1 connect_burst=0", Config{Host: "h", ConnectRate: -1}},
		{"connect_timeout as a duration", "host=h connect_timeout=1500ms", Config{Host: "h", ConnectTimeout: 1500 * time.Millisecond}},
		{"connect_timeout 0", "host=h connect_timeout=0", Config{Host: "h"}},
		{"token_lifetime in seconds", "host=h token_lifetime=604800", Config{Host: "h", TokenLifetime: 7 * 24 * time.Hour}},
		{"AWS's Go and Rust connectors", "dsql://h?tokenDurationSecs=1", Config{Host: "h", TokenLifetime: time.Second}},
		{"AWS's Python connector", "dsql://h?token_duration_secs=900", Config{Host: "h", TokenLifetime: 15 * time.Minute}},
		{"AWS's Go connector, its query mode", "dsql://h?queryExecMode=exec", Config{Host: "h", Params: map[string]string{"default_query_exec_mode": "exec"}}},
		{"AWS's JDBC connector", "dsql://h?token-duration-secs=900", Config{Host: "h", TokenLifetime: 15 * time.Minute}},
		{"one lifetime under two names", "dsql://h?token-duration-secs=900&token_lifetime=15m", Config{Host: "h", TokenLifetime: 15 * time.Minute}},

		{"sslmode require", "host=h sslmode=require", Config{Host: "h"}},
		{"sslmode verify-ca", "host=h sslmode=verify-ca", Config{Host: "h"}},
		{"sslmode verify-full", "host=h sslmode=verify-full", Config{Host: "h"}},
		{"what happens anyway", "host=h ssl=true sslsni=1 sslrootcert=system sslnegotiation=direct sslcertmode=allow require_auth=password gssencmode=disable channel_binding=prefer",
			Config{Host: "h", SSLNegotiation: "direct"}},

		{"params", "dsql://h?pool_max_conns=7&search_path=a,b&TimeZone=Etc/GMT%2B5&target_session_attrs=any&default_query_exec_mode=exec",
			Config{Host: "h", Params: map[string]string{
				"pool_max_conns": "7", "search_path": "a,b", "timezone": "Etc/GMT+5", "target_session_attrs": "any", "default_query_exec_mode": "exec",
			}}},
		{"an empty setting is one", "host=h search_path=''", Config{Host: "h", Params: map[string]string{"search_path": ""}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseConfig(tt.in)
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestParseConfigErrors(t *testing.T) {
	tests := []struct {
		in   string
		want []string // pieces of the text: what failed, and what to do
	}{
		{"", []string{"Host", "is empty", "endpoint"}},
		{"  ", []string{"Host"}},
		{"dsql://", []string{"Host"}},
		{"dsql:///postgres?host=", []string{"Host"}},
		{"host=' '", []string{"Host"}},
		{"user=admin", []string{"Host"}},
		{"dsql://h1,h2/db", []string{"Host", "more than one"}},
		{"dsql://h1:1,h2:2/db", []string{"Host", "more than one"}},
		{"host=h1,h2", []string{"Host", "more than one"}},
		{"host=u@h", []string{"Host", "an @"}},
		{"host=/var/run/postgresql", []string{"Host", "slash"}},
		{"dsql://%2Ftmp/db", []string{"Host", "slash"}},
		{"dsql://2001:db8::1/db", []string{"Host", "brackets"}},
		{"dsql://[2001:db8::1/db", []string{"Host", "brackets"}},
		{"dsql://[::1]5432/db", []string{"Host", "brackets"}},
		{"dsql://[10.0.0.1]/db", []string{"Host", "brackets"}},
		{"dsql://h%3a1/db", []string{"Host", "colon"}},
		{"dsql://h1/?host=h2", []string{"host", "twice"}},
		{"dsql://h:1/?port=2", []string{"port", "twice"}},
		{"host=h dbname=a database=b", []string{"database", "twice"}},
		{"host=h region=a region=b", []string{"region", "twice"}},
		{"host=h search_path='' search_path=b", []string{"search_path", "twice"}},
		{"host=h search_path= search_path=b", []string{"value is missing", "name=''"}},
		{"host=h application_name= a=b", []string{"value is missing"}},
		{"host=h tokenDurationSecs=900 token_lifetime=16m", []string{"token_lifetime", "two names"}},

		{"dsql://h:0", []string{"port", "1 to 65535"}},
		{"dsql://h:70000", []string{"port", "1 to 65535"}},
		{"dsql://h:-1", []string{"port", "1 to 65535"}},
		{"dsql://h:x", []string{"port", "1 to 65535"}},
		{"host=h port=0", []string{"port", "1 to 65535"}},
		{"host=h port=65536", []string{"port", "1 to 65535"}},
		{"host=h port=5432,5433", []string{"port", "1 to 65535"}},

		{"mysql://h/db", []string{"another scheme", "dsql://"}},
		{"jdbc:postgresql://h/db?user=x", []string{"another scheme"}},
		{"dsql://h/?region", []string{"without =", "%26"}},
		{"dsql://h/%zz", []string{"hexadecimal", "%25"}},
		{"dsql://h/?region=%4", []string{"hexadecimal"}},
		{"dsql://h/db#frag", []string{"#", "%23"}},
		{"host", []string{"name=value"}},
		{dsnHost, []string{"dsql://<host>", "host=<host>"}},
		{" h:5432/db\n", []string{"dsql://<host>", "host=<host>"}},
		{"arn:aws:dsql:us-east-1:123456789012:cluster/x", []string{"Host", "ARN", "<id>.dsql.<region>.on.aws"}},
		{"dsql://arn:aws:dsql:us-east-1:123456789012:cluster/x", []string{"Host", "ARN", "<id>.dsql.<region>.on.aws"}},
		{"dsql://admin@arn:aws-cn:dsql:cn-north-1:123456789012:cluster/x", []string{"Host", "ARN"}},
		{"host=arn:aws:dsql:us-east-1:123456789012:cluster/x", []string{"Host", "ARN", "<id>.dsql.<region>.on.aws"}},
		{"host=h junk", []string{"name=value"}},
		{"host h=1", []string{"name=value"}},
		{"host=h =x", []string{"name=value"}},
		{"host='h", []string{"quote", `\'`}},
		{`host='h\`, []string{"quote"}},
		{"host=h\x00", []string{"host", "NUL"}},
		{"dsql://h/%00", []string{"database", "NUL"}},
		{"dsql://h/?re%00gion=x", []string{"parameter", "name"}},
		{"dsql://h/a/b", []string{"database", "slash"}},
		{"host=h dbname=postgres://h/d", []string{"dbname", "slash"}},
		{"host=h dbname=a:b", []string{"dbname", "colon"}},
		{"host=h user=a:b", []string{"user", "colon"}},

		{"host=h password=x", []string{"password", "token is the password", "remove"}},
		{"host=h PassWord=x", []string{"PassWord", "remove"}},
		{"dsql://u:x@h", []string{"password", "remove"}},
		{"dsql://h?password=x", []string{"password", "remove"}},
		{"dsql://h?p%61ssword=x", []string{"password", "remove"}},
		{"host=h passfile=/x", []string{"passfile", "remove"}},
		{"host=h sslpassword=x", []string{"sslpassword", "remove"}},

		{"host=h token_lifetime=500ms", []string{"TokenLifetime", "500ms", "1 s to 7 days"}},
		{"host=h token_lifetime=0.5s", []string{"TokenLifetime", "1 s to 7 days"}},
		{"host=h token_lifetime=1.5s", []string{"TokenLifetime", "whole seconds"}},
		{"host=h token_lifetime=192h", []string{"TokenLifetime", "192h", "1 s to 7 days"}},
		{"host=h token_lifetime=0", []string{"TokenLifetime", "1 s to 7 days"}},
		{"host=h token_lifetime=-1s", []string{"TokenLifetime", "1 s to 7 days"}},
		{"host=h token_lifetime=soon", []string{"token_lifetime", `"soon"`, "15m"}},
		{"host=h token_lifetime=99999999999999999999", []string{"token_lifetime"}},
		{"host=h tokenDurationSecs=15m", []string{"tokenDurationSecs", `"15m"`, "token_lifetime"}},
		{"host=h tokenDurationSecs=604801", []string{"TokenLifetime", "604800 s"}},
		{"host=h connect_timeout=-5", []string{"connect_timeout", `"-5"`}},
		{"host=h connect_timeout=-5s", []string{"connect_timeout", `"-5s"`}},
		{"host=h connect_rate=fast", []string{"connect_rate", `"fast"`}},
		{"host=h connect_rate=NaN", []string{"connect_rate"}},
		{"host=h connect_rate=Inf", []string{"connect_rate"}},
		{"host=h connect_burst=-1", []string{"connect_burst", `"-1"`}},
		{"host=h connect_burst=1.5", []string{"connect_burst"}},
		{"host=h early_auth=maybe", []string{"early_auth", `"maybe"`, "true"}},
		{"host=h sslnegotiation=tls", []string{"sslnegotiation", `"tls"`, "direct", "postgres"}},

		{"host=h sslmode=disable", []string{"sslmode", `"disable"`, "password", "verify-full"}},
		{"host=h sslmode=allow", []string{"sslmode", `"allow"`, "verify-full"}},
		{"host=h SSLMODE=prefer", []string{"SSLMODE", `"prefer"`, "plaintext", "verify-full"}},
		{"host=h sslmode=verify", []string{"sslmode", `"verify"`, "verify-full"}},
		{"host=h ssl=false", []string{"ssl", `"false"`}},
		{"host=h sslsni=0", []string{"sslsni", `"0"`, "SNI"}},
		{"host=h sslcert=c", []string{"sslcert", "client certificates", "remove"}},
		{"host=h sslkey=c", []string{"sslkey", "client certificates"}},
		{"host=h sslcertmode=require", []string{"sslcertmode", "client certificates"}},
		{"host=h sslcrl=c", []string{"sslcrl", "remove"}},
		{"host=h require_auth=scram-sha-256", []string{"require_auth", "password"}},
		{"host=h gssencmode=require", []string{"gssencmode", "TLS"}},
		{"host=h channel_binding=require", []string{"channel_binding", "remove it"}},
		{"host=h krbsrvname=x", []string{"krbsrvname", "remove"}},
		{"host=h hostaddr=10.0.0.1", []string{"hostaddr", "dial_address"}},
		{"host=h service=s", []string{"service", "service files"}},
		{"host=h servicefile=s", []string{"servicefile", "service files"}},
		{"host=h options='-c amzn-cluster-id=x'", []string{"options", "cluster_id"}},
		{"host=h options='-c search_path=x'", []string{"options", "parameter of its own"}},

		{"host=h keepalives=1", []string{"keepalives", "Config.Params"}},
		{"host=h client_min_messages=warning", []string{"client_min_messages", "DSQL refuses", "remove it"}},
		{"dsql://h?default_transaction_isolation=serializable", []string{"default_transaction_isolation", "DSQL refuses", "remove it"}},
		{"host=h clusterid=x", []string{"clusterid", "did you mean cluster_id?", "Config.Params"}},
		{"host=h applicationName=x", []string{"applicationName", "did you mean application_name?"}},
		{"host=h regoin=x", []string{"regoin", "did you mean region?"}},
		{"host=h pool_max_con=x", []string{"pool_max_con", "did you mean pool_max_conns?"}},
		{"host=h unknown=", []string{"unknown"}},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			c, err := ParseConfig(tt.in)
			require.ErrorIs(t, err, ErrConfig)
			require.Zero(t, c)
			for _, want := range tt.want {
				require.ErrorContains(t, err, want)
			}
		})
	}
}

// The canary must not show wherever a missing escape, quote or piece puts it.
func TestParseConfigShowsNoPassword(t *testing.T) {
	const canary = "hunter2hunter2"
	for _, in := range []string{
		"postgres://u:CANARY@h/db",
		"postgres://u:%zzCANARY@h/db",
		"postgres://u:CANARY@h:x/db",
		"postgres://u:CANARY",
		"postgres://u:CANARY/db",
		"postgres://u:CANARY:1/db",
		"postgres://u%3aCANARY/db",
		"postgres://u%3ACANARY@h/db",
		"postgres://u%3ACANARY%40h/db",
		"postgres://u:pa/CANARY@h/db",
		"postgres://u:12/CANARY@h/db",
		"postgres://u:pa?CANARY@h/db",
		"postgres://u:12?CANARY@h/db",
		"postgres://u:12?CANARY=y@h/db",
		"postgres://u:12?x=CANARY@h/db",
		"postgres://u:12?port=CANARY@h/db",
		"postgres://u:12?application_name=CANARY@h/db",
		"postgres://u:12?sslrootcert=CANARY@h/db",
		"postgres://u:@x?application_name=CANARY@h/db",
		"postgres://u:pa#CANARY@h/db",
		"postgres://u:12#CANARY@h/db",
		"postgres://u:CANARY#@h/db",
		"postgres://u:a@CANARY@h/db",
		"postgres://u:[CANARY@h/db",
		"postgres://u:a]CANARY@h/db",
		"postgres://[CANARY]@h:x/db",
		"postgres://u@h:CANARY/db",
		"postgres://u@x:12/CANARY@h/db",
		"postgres://u@x:12?sslmode=CANARY@h/db",
		"postgres://u@h/db?password=CANARY",
		"postgres://u@h/db?password=CANARY&region=%zz",
		"postgres://u@h/db?PASSWORD=CANARY",
		"postgres://u@h/db?pwd=CANARY",
		"postgres://u@h/db?pasword=CANARY",
		"postgres://u@h/db?user=u:CANARY",
		"postgres://u@h/db?user=u;password=CANARY",
		"postgres://u@h/db?dbname=postgres://u:CANARY@h/db",
		"postgres://u@h/db?host=postgres://u:CANARY@h/db",
		"postgres://u@h/db?dial_address=h&dial_address=password=CANARY",
		"postgres://u;password=CANARY@h",
		"postgresq://u:CANARY@h/db",
		"CANARY",
		"u:CANARY@h/db",
		"arn:aws:CANARY",
		"postgres://u:CANARY@arn:aws:dsql:us-east-1:123456789012:cluster/x",
		"u:CANARY@h/db?sslmode=require",
		"jdbc:postgresql://h/db?user=u&password=CANARY",
		"host=h password=CANARY",
		"host=h password = CANARY",
		"host=h password=my CANARY",
		"host=h password=my CANARY=x",
		"host=h password='CANARY",
		"host=h password='a'CANARY",
		"host=h password='a'CANARY=1",
		"host=h password=CANARY port=70000",
		"port=70000 host=h password=CANARY",
		"CANARY=1 host=h password=x",
		"host=h pasword=my CANARY",
		"host=h password:CANARY",
		"host=h password:CANARY=",
		"host=h user= password=CANARY",
		"host= password=CANARY user=u",
		"host=h user=u:CANARY",
		"host=postgres://u:CANARY@h/db",
		"host=h dbname='host=h password=CANARY'",
		"host=h options='-c password=CANARY'",
		"Host=h;Username=u;Password=CANARY",
		"host=h PGPASSWORD=CANARY",
		"host=h passwd=CANARY",
		"host=h sslpassword=CANARY",
		"host=h passfile=CANARY",
	} {
		t.Run(in, func(t *testing.T) {
			c, err := ParseConfig(strings.ReplaceAll(in, "CANARY", canary))
			require.ErrorIs(t, err, ErrConfig)
			require.Zero(t, c)
			require.NotContains(t, fmt.Sprintf("%v %+v %#v %q", err, err, err, err), canary)
		})
	}
}

func TestParseConfigRootCAs(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	root, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	good := filepath.Join(dir, "root ca.pem")
	require.NoError(t, os.WriteFile(good, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	empty := filepath.Join(dir, "empty.pem")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))

	want := x509.NewCertPool()
	want.AddCert(root)
	for _, in := range []string{
		"host=h sslrootcert='" + strings.ReplaceAll(good, `\`, `\\`) + "'",
		"dsql://h?sslrootcert=" + strings.ReplaceAll(good, " ", "%20"),
	} {
		c, err := ParseConfig(in)
		require.NoError(t, err)
		require.True(t, want.Equal(c.RootCAs))
	}

	for _, path := range []string{empty, filepath.Join(dir, "missing.pem"), dir} {
		_, err := ParseConfig("dsql://h?sslrootcert=" + strings.ReplaceAll(path, `\`, "%5C"))
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, "sslrootcert")
		require.ErrorContains(t, err, filepath.Base(path))
	}
}

// Nothing outside the string counts.
func TestParseConfigIgnoresEnvironment(t *testing.T) {
	want, err := ParseConfig("host=h")
	require.NoError(t, err)
	for name, value := range map[string]string{
		"PGHOST": "a,b", "PGPORT": "1", "PGUSER": "x", "PGDATABASE": "x", "PGPASSWORD": "x", "PGSSLMODE": "disable",
		"PGSERVICE": "x", "PGSERVICEFILE": "/x", "PGOPTIONS": "-c x=y", "PGAPPNAME": "x", "PGSSLROOTCERT": "/x",
		"PGTARGETSESSIONATTRS": "standby", "AWS_REGION": "x", "AWS_PROFILE": "x",
	} {
		t.Setenv(name, value)
	}
	got, err := ParseConfig("host=h")
	require.NoError(t, err)
	require.Equal(t, want, got)
	_, err = ParseConfig("")
	require.ErrorIs(t, err, ErrConfig)
}

// Every entry says one thing, is found under its name, and points to an entry that exists.
func TestParameters(t *testing.T) {
	for name, p := range parameters {
		require.Equal(t, strings.ToLower(name), name)
		said := 0
		for _, is := range []bool{p.set != nil, p.aliasOf != "", p.toParams, p.refused != ""} {
			if is {
				said++
			}
		}
		require.Equal(t, 1, said, name)
		if p.aliasOf != "" {
			named := parameters[p.aliasOf]
			require.True(t, named.set != nil || named.toParams, name)
		}
	}
}

func TestValidateTokenLifetime(t *testing.T) {
	for _, d := range []time.Duration{time.Second, 15 * time.Minute, 7 * 24 * time.Hour} {
		require.NoError(t, validateTokenLifetime(d))
	}
	for _, d := range []time.Duration{0, -time.Second, time.Second / 2, time.Second + 1, 7*24*time.Hour + time.Second, 8 * 24 * time.Hour} {
		err := validateTokenLifetime(d)
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, "TokenLifetime")
		require.ErrorContains(t, err, "1 s to 7 days")
	}
}

func TestEditDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"abc", "abd", 1},
		{"abc", "ab", 1}, {"abc", "xabc", 1}, {"ab", "ba", 2}, {"kitten", "sitting", 3},
	} {
		require.Equal(t, tt.want, editDistance(tt.a, tt.b), "%q %q", tt.a, tt.b)
		require.Equal(t, tt.want, editDistance(tt.b, tt.a), "%q %q", tt.b, tt.a)
	}
}

func FuzzParseConfig(f *testing.F) {
	const canary = "hunter2hunter2"
	for _, s := range []string{
		"", "dsql://h", "postgres://u:@[::1]:5432/db?region=r&tokenDurationSecs=900", "postgresql://%41@h%41/%41?%41=%41",
		"host=h user='a\\'b' port = 5432", `host=h application_name=a\`, "host=h sslmode=disable", "host='h", "a=b c",
		"dsql://h?search_path=a,b&pool_max_conns=3&early_auth=1&connect_rate=-1", "host=h sslrootcert=/nowhere",
		"12/", "12?x=", "@h?application_name=", "#", "%zz", "[", " application_name=", "' user=", "\x00", "12@h?application_name=",
	} {
		f.Add(s, "")
		f.Add("", s)
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, s, more string) {
		if strings.Contains(s+more, "/") && strings.Contains(strings.ToLower(s+more), "sslrootcert") {
			t.Skip("must not read devices")
		}
		c, err := ParseConfig(s)
		again, errAgain := ParseConfig(s)
		require.Equal(t, c, again)
		require.Equal(t, err, errAgain)
		if err != nil {
			require.ErrorIs(t, err, ErrConfig)
			require.Zero(t, c)
		} else {
			require.NotEmpty(t, strings.TrimSpace(c.Host))
		}

		quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
		for _, in := range []string{
			"postgres://u:" + s + canary + more + "@" + dsnHost + "/postgres",
			"postgres://" + dsnHost + "/postgres?password=" + canary + more,
			"host=" + dsnHost + " password='" + quote.Replace(s+canary+more) + "' user=u",
			"host=" + dsnHost + " password=" + canary + more,
		} {
			c, err := ParseConfig(in)
			require.ErrorIs(t, err, ErrConfig)
			require.Zero(t, c)
			require.NotContains(t, err.Error(), canary)
		}
	})
}

func BenchmarkParseConfig(b *testing.B) {
	for _, bb := range []struct{ name, in string }{
		{"URL", "postgres://admin@" + dsnHost + ":5432/postgres?sslmode=verify-full&tokenDurationSecs=900&pool_max_conns=10"},
		{"KeywordValue", "host=" + dsnHost + " port=5432 user=admin dbname=postgres sslmode=verify-full token_lifetime=15m pool_max_conns=10"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseConfig(bb.in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
