# Held by the process that erases patients, for good. It can destroy every envelope key, so guard it
# like the right to delete backups. It cannot see a key.

path "<mount>/hmac/pseudonym/sha2-256" {
  capabilities       = ["update"]
  allowed_parameters = { "input" = [], "key_version" = [] }
}

path "<mount>/keys/+/config" {
  capabilities        = ["update"]
  required_parameters = ["deletion_allowed"]
  allowed_parameters  = { "deletion_allowed" = [] }
}

# "update" makes the mark of an erasure: a key of a type that cannot encrypt. Vault demands the
# required parameter for reads too: `vault read <mount>/keys/... type=hmac`.
#
# A policy path cannot match the end of a key's name. Therefore this role can also delete a mark, after
# which an erased patient looks as if never enrolled. And it can make a key of that type under the name
# of an envelope key, after which a patient who is not enrolled yet cannot be.
path "<mount>/keys/+" {
  capabilities        = ["read", "update", "delete"]
  required_parameters = ["type"]
  allowed_parameters  = { "type" = ["hmac"], "key_size" = [] }
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

# Without the pseudonym key, no patient could be found again.
path "<mount>/keys/pseudonym" {
  capabilities = ["deny"]
}

path "<mount>/keys/pseudonym/config" {
  capabilities = ["deny"]
}
