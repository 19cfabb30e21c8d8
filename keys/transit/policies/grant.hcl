# Held by grants, and by no other token. It is the only role that can unwrap: the recording keys of one
# patient, whose KeyID is the entity alias. The token role gives this policy to grants.
#
# The suffixes -kek and -erased are a security control. In a path, Vault treats "*" at the end and "+"
# as a whole segment as wildcards. Without the suffix, a grant issued for the alias "*" would open every
# patient's recordings.
#
# Only the listed parameters can be sent. A batch cannot, so the audit log has the binding (the context)
# of every attempt in clear, always at the same place.

path "<mount>/decrypt/{{identity.entity.aliases.<token-accessor>.name}}-kek" {
  capabilities        = ["update"]
  required_parameters = ["ciphertext", "context"]
  allowed_parameters  = { "ciphertext" = [], "context" = [] }
}

# The mark of an erasure. It distinguishes a patient who was erased from one who was never enrolled.
path "<mount>/keys/{{identity.entity.aliases.<token-accessor>.name}}-erased" {
  capabilities = ["read"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
