# Held by the job that retires old key versions, which Vault archives and can bring back. It deletes
# none.

path "<mount>/keys" {
  capabilities = ["list"]
}

path "<mount>/keys/+" {
  capabilities = ["read"]
}

path "<mount>/keys/+/config" {
  capabilities       = ["update"]
  allowed_parameters = { "min_decryption_version" = [], "min_encryption_version" = [] }
}

path "<mount>/keys/pseudonym/config" {
  capabilities = ["deny"]
}
