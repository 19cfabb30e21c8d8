# Held by the job that retires old key versions, which Vault archives and can bring back. It destroys
# none, and can use none.

path "<mount>/keys" {
  capabilities = ["list"]
}

path "<mount>/keys/+" {
  capabilities = ["read"]
}

# The minimum for encryption goes with that for decryption, because Vault lets it be no lower. It
# stops no wrap: these are made with the newest version, and Vault lets no minimum be above that.
path "<mount>/keys/+/config" {
  capabilities        = ["update"]
  required_parameters = ["min_decryption_version"]
  allowed_parameters  = { "min_decryption_version" = [], "min_encryption_version" = [] }
}

path "<mount>/keys/pseudonym/config" {
  capabilities = ["deny"]
}
