# Held by grants, and by no other token. It is the only role that can unwrap: the recording keys of one
# patient, whose envelope key is the entity alias. The token role gives this policy to grants.
#
# That an alias ends in -kek is a security control, which the token role enforces. In a path, Vault treats
# "*" at the end and "+" as a whole segment as wildcards. Without the suffix, a grant issued for the alias
# "*" would open every patient's recordings.
#
# Only the listed parameters can be sent. A batch cannot, so the audit log has the binding (the context)
# of every attempt in clear, always at the same place.

path "<mount>/decrypt/{{identity.entity.aliases.<token-accessor>.name}}" {
  capabilities        = ["update"]
  required_parameters = ["ciphertext", "context"]
  allowed_parameters  = { "ciphertext" = [], "context" = [] }
}

# The mark of an erasure. It distinguishes a patient who was erased from one who was never enrolled.
path "<mount>/keys/erased-{{identity.entity.aliases.<token-accessor>.name}}" {
  capabilities = ["read"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
