# Held by what records consultations: it wraps recording keys and cannot unwrap them. Without the
# "create" capability, encrypting never makes a key, whatever config/keys says.

path "<mount>/hmac/pseudonym/sha2-256" {
  capabilities       = ["update"]
  allowed_parameters = { "input" = [], "key_version" = [] }
}

path "<mount>/encrypt/+" {
  capabilities        = ["update"]
  required_parameters = ["plaintext", "context"]
  allowed_parameters  = { "plaintext" = [], "context" = [] }
}

# Vault answers "denied" for a key that does not exist; this tells the two apart.
path "<mount>/keys/+" {
  capabilities = ["read"]
}
