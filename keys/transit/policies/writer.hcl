# Held by the process that records consultations. It wraps recording keys and cannot unwrap them.
# Without the "create" capability, encrypting never makes a key, whatever is set at config/keys.

path "<mount>/hmac/pseudonym/sha2-256" {
  capabilities       = ["update"]
  allowed_parameters = { "input" = [], "key_version" = [] }
}

path "<mount>/encrypt/+" {
  capabilities        = ["update"]
  required_parameters = ["plaintext", "context"]
  allowed_parameters  = { "plaintext" = [], "context" = [] }
}

# Vault answers "denied" to an encryption with a key that does not exist. Reading the key shows whether
# it exists.
path "<mount>/keys/+" {
  capabilities = ["read"]
}

# The mount's description says which bucket and prefix the keys are for. Before anything is wrapped for another
# one, the writer refuses.
path "sys/mounts/<mount>/tune" {
  capabilities = ["read"]
}
