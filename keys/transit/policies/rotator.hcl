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

# Vault lets an item of a batch name an older version of the key (key_version), and a policy cannot look into a
# batch. Whoever steals this token can wrap a key again under any version from the minimum for encryption
# on, still bound to its patient and recording: docs/roles.md has what follows.
path "<mount>/rewrap/+" {
  capabilities       = ["update"]
  allowed_parameters = { "batch_input" = [] }
}

# Pseudonyms are always made with version 1 of this key.
path "<mount>/keys/pseudonym/rotate" {
  capabilities = ["deny"]
}
