# Held by what erases patients, for good. Guard it like a backup's deletion right: it can destroy
# every envelope key. It can use none.

path "<mount>/hmac/pseudonym/sha2-256" {
  capabilities       = ["update"]
  allowed_parameters = { "input" = [], "key_version" = [] }
}

path "<mount>/keys/+/config" {
  capabilities        = ["update"]
  required_parameters = ["deletion_allowed"]
  allowed_parameters  = { "deletion_allowed" = [] }
}

# "update" leaves the mark of an erasure: a key of a type that cannot encrypt. There is no "read"
# because Vault would ask it for the required parameter too.
path "<mount>/keys/+" {
  capabilities        = ["update", "delete"]
  required_parameters = ["type"]
  allowed_parameters  = { "type" = ["hmac"], "key_size" = [] }
}

# Without this key no patient could be found again.
path "<mount>/keys/pseudonym" {
  capabilities = ["deny"]
}

path "<mount>/keys/pseudonym/config" {
  capabilities = ["deny"]
}
