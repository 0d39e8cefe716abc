// Package schema is what ent generates its code from.
package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/dialect/entsql"
	"entgo.io/ent/schema"
	"entgo.io/ent/schema/edge"
	"entgo.io/ent/schema/field"
	"github.com/google/uuid"
)

// Account has a random key. Ent's own default is an int from an identity column.
type Account struct{ ent.Schema }

func (Account) Annotations() []schema.Annotation {
	return []schema.Annotation{entsql.Annotation{Table: "ent_accounts"}}
}

func (Account) Fields() []ent.Field {
	return []ent.Field{
		field.UUID("id", uuid.UUID{}).Default(uuid.New),
		field.String("owner").Unique(),
		field.Int64("balance").NonNegative(),
	}
}

func (Account) Edges() []ent.Edge {
	return []ent.Edge{edge.To("sent", Transfer.Type), edge.To("received", Transfer.Type)}
}
