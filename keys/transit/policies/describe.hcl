# Held by grants that can only describe, and by no other token. They unwrap the metadata keys of one
# patient, whose envelope key is the entity alias, and no recording key. The token role gives this policy to them.
#
# The contexts of metadata keys, and no others, start with "recvault/v1/metadata/": 21 bytes, which are 28
# whole characters of base64. Vault compares the text that was sent, so other spellings of the base64 are
# refused.
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
  allowed_parameters  = { "ciphertext" = [], "context" = ["cmVjdmF1bHQvdjEvbWV0YWRhdGEv*"] }
}

# The mark of an erasure. It distinguishes a patient who was erased from one who was never enrolled.
path "<mount>/keys/erased-{{identity.entity.aliases.<token-accessor>.name}}" {
  capabilities = ["read"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
