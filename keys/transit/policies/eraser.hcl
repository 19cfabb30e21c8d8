# Held by the process that erases patients, for good. It can destroy every envelope key, so guard it
# like the right to delete backups. It cannot see a key.

path "<mount>/hmac/pseudonym/sha2-256" {
  capabilities       = ["update"]
  allowed_parameters = { "input" = [], "key_version" = [] }
}

path "<mount>/keys/+/config" {
  capabilities       = ["update"]
  allowed_parameters = { "deletion_allowed" = [] }
}

path "<mount>/keys/+" {
  capabilities = ["read", "delete"]
}

# "update" makes the mark of an erasure: a key of a type that cannot encrypt. Vault demands the required
# parameter for reads too: `vault read <mount>/keys/erased-... type=hmac`. Of several rules, the one with
# the longest beginning applies, so this role can neither delete a mark nor make another kind of key. An
# empty text is denied, because Vault takes it for a list without elements, of which all are allowed.
path "<mount>/keys/erased-*" {
  capabilities        = ["read", "update"]
  required_parameters = ["type"]
  allowed_parameters  = { "type" = ["hmac"], "key_size" = [] }
  denied_parameters   = { "type" = [""] }
}

# A rewrap that fails proves the erasure.
path "<mount>/rewrap/+" {
  capabilities       = ["update"]
  allowed_parameters = { "batch_input" = [] }
}

# A grant can have Vault keep its answers, with recording keys in them, wrapped for years. They end with the
# envelope key. "sudo" is Vault's demand for this path.
path "sys/leases/revoke-prefix/<mount>/decrypt/*" {
  capabilities       = ["update", "sudo"]
  allowed_parameters = { "sync" = [] }
}

# Without the pseudonym key, no patient could be found again. "deny" would bind the setup role too, if a
# token has both.
path "<mount>/keys/pseudonym" {
  capabilities = ["read"]
}

path "<mount>/keys/pseudonym/config" {
  capabilities = ["deny"]
}
