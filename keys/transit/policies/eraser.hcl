# Held by what erases patients, for good. Guard it like a backup's deletion right: it can destroy
# every envelope key. It sees none.

path "<mount>/hmac/pseudonym/sha2-256" {
  capabilities       = ["update"]
  allowed_parameters = { "input" = [], "key_version" = [] }
}

path "<mount>/keys/+/config" {
  capabilities        = ["update"]
  required_parameters = ["deletion_allowed"]
  allowed_parameters  = { "deletion_allowed" = [] }
}

# "update" leaves the mark of an erasure: a key of a type that cannot encrypt. Vault asks for the
# required parameter in reading too: `vault read <mount>/keys/... type=hmac`. A policy cannot tell a key's
# name by its end, so this may also delete the mark, by which an erased patient looks as if never enrolled,
# and make a key of that type in the place of an envelope key for somebody not enrolled, who then cannot be.
path "<mount>/keys/+" {
  capabilities        = ["read", "update", "delete"]
  required_parameters = ["type"]
  allowed_parameters  = { "type" = ["hmac"], "key_size" = [] }
}

# That a re-wrap fails is the proof of an erasure.
path "<mount>/rewrap/+" {
  capabilities       = ["update"]
  allowed_parameters = { "batch_input" = [] }
}

# Without this key no patient could be found again.
path "<mount>/keys/pseudonym" {
  capabilities = ["deny"]
}

path "<mount>/keys/pseudonym/config" {
  capabilities = ["deny"]
}
