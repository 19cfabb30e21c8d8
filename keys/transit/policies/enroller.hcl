# Held by the process that registers patients. It makes envelope keys, only of the kind that ties a
# wrapped key to its recording, and can use none.

path "<mount>/hmac/pseudonym/sha2-256" {
  capabilities       = ["update"]
  allowed_parameters = { "input" = [], "key_version" = [] }
}

# Both parameters are required: without derived=true a key would ignore the binding, and without the
# type it would get Vault's default.
path "<mount>/keys/+" {
  capabilities        = ["update"]
  required_parameters = ["type", "derived"]
  allowed_parameters  = { "type" = ["aes256-gcm96"], "derived" = [true] }
}

path "<mount>/keys/pseudonym" {
  capabilities = ["deny"]
}
