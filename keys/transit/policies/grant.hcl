# Held by whoever a grant was issued to, and the only role that can unwrap: one patient's recording
# keys. The token role gives it to grants, and nobody else should have it. The entity alias is the
# patient's KeyID.
#
# The suffixes are a security control. Vault takes "*" for a wildcard at the end of a path, and "+"
# as a whole segment: without the suffix, a grant issued for the alias "*" would open every
# patient's recordings.
#
# Only what is listed can be sent. In particular a batch cannot, so that the binding (the context)
# of every attempt stands in clear at the same place of the audit log.

path "<mount>/decrypt/{{identity.entity.aliases.<token-accessor>.name}}-kek" {
  capabilities        = ["update"]
  required_parameters = ["ciphertext", "context"]
  allowed_parameters  = { "ciphertext" = [], "context" = [] }
}

# The mark that an erasure leaves, so that a patient who was erased is told from one who never was
# enrolled.
path "<mount>/keys/{{identity.entity.aliases.<token-accessor>.name}}-erased" {
  capabilities = ["read"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
