# Held by the job that rotates: it adds key versions and re-wraps recording keys under them, and
# sees neither.

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

# Pseudonyms are made with version 1 of this key and no other.
path "<mount>/keys/pseudonym/rotate" {
  capabilities = ["deny"]
}
