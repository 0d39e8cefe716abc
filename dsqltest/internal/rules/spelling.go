package rules

import "strings"

// encodings are the spellings of client_encoding that clients use, without case and punctuation.
var encodings = map[string]string{
	"utf8": "UTF8", "unicode": "UTF8", "sqlascii": "SQL_ASCII",
	"latin1": "LATIN1", "iso88591": "LATIN1", "latin9": "LATIN9", "iso885915": "LATIN9",
	"win1252": "WIN1252", "windows1252": "WIN1252",
}

// SpellSetting returns a value of a setting as PostgreSQL's ParameterStatus has it. One that it does not
// know it leaves alone.
func SpellSetting(name, value string) string {
	switch name {
	case "client_encoding":
		letters := strings.Map(func(r rune) rune {
			if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
				return r
			}
			return -1
		}, strings.ToLower(value))
		if encoding, ok := encodings[letters]; ok {
			return encoding
		}
	case "datestyle":
		return spellDateStyle(value)
	case "intervalstyle":
		return strings.ToLower(value)
	case "timezone":
		if strings.EqualFold(value, "UTC") {
			return "UTC"
		}
	}
	return value
}

// spellDateStyle completes a style or an order: the default is ISO, MDY.
func spellDateStyle(value string) string {
	style, order := "ISO", ""
	for _, word := range strings.FieldsFunc(strings.ToLower(value), func(r rune) bool { return strings.ContainsRune(", \t", r) }) {
		switch {
		case word == "iso":
			style = "ISO"
		case word == "sql":
			style = "SQL"
		case strings.HasPrefix(word, "postgres"):
			style = "Postgres"
		case word == "german":
			style = "German"
			if order == "" {
				order = "DMY"
			}
		case word == "ymd":
			order = "YMD"
		case word == "dmy" || strings.HasPrefix(word, "euro"):
			order = "DMY"
		case word == "mdy" || word == "us" || strings.HasPrefix(word, "noneuro"):
			order = "MDY"
		}
	}
	if order == "" {
		order = "MDY"
	}
	return style + ", " + order
}
