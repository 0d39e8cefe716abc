package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/dialect/entsql"
	"entgo.io/ent/schema"
	"entgo.io/ent/schema/edge"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
	"github.com/google/uuid"
)

// Transfer is money that went from one account to another.
type Transfer struct{ ent.Schema }

func (Transfer) Annotations() []schema.Annotation {
	return []schema.Annotation{entsql.Annotation{Table: "ent_transfers"}}
}

func (Transfer) Fields() []ent.Field {
	return []ent.Field{
		field.UUID("id", uuid.UUID{}).Default(uuid.New),
		field.Int64("amount"),
	}
}

func (Transfer) Edges() []ent.Edge {
	return []ent.Edge{
		edge.From("sender", Account.Type).Ref("sent").Unique().Required(),
		edge.From("receiver", Account.Type).Ref("received").Unique().Required(),
	}
}

func (Transfer) Indexes() []ent.Index {
	return []ent.Index{index.Edges("sender")}
}
