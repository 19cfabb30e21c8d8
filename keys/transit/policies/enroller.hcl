# Held by what registers patients: it makes envelope keys, of the one kind that ties a wrapped key
# to its recording, and can use none.

path "<mount>/hmac/pseudonym/sha2-256" {
  capabilities       = ["update"]
  allowed_parameters = { "input" = [], "key_version" = [] }
}

# Without derived=true a key would ignore the binding, and without the type it would get another
# default: both must be said.
path "<mount>/keys/+" {
  capabilities        = ["update"]
  required_parameters = ["type", "derived"]
  allowed_parameters  = { "type" = ["aes256-gcm96"], "derived" = [true] }
}

path "<mount>/keys/pseudonym" {
  capabilities = ["deny"]
}
