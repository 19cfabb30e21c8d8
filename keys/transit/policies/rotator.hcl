# Held by the job that rotates. It adds versions to envelope keys and rewraps recording keys under them,
# and cannot see either kind of key.

path "<mount>/keys" {
  capabilities = ["list"]
}

path "<mount>/keys/+" {
  capabilities = ["read"]
}

path "<mount>/keys/+/rotate" {
  capabilities = ["update"]
}

path "<mount>/rewrap/+" {
  capabilities       = ["update"]
  allowed_parameters = { "batch_input" = [] }
}

# Pseudonyms are always made with version 1 of this key.
path "<mount>/keys/pseudonym/rotate" {
  capabilities = ["deny"]
}
