# Held by the process that registers patients. It makes envelope keys, only of the kind that ties a
# wrapped key to its recording, and can use none.

path "<mount>/hmac/pseudonym/sha2-256" {
  capabilities       = ["update"]
  allowed_parameters = { "input" = [], "key_version" = [] }
}

# Both parameters are required: without derived=true a key would ignore the binding, and without the
# type it would get Vault's default. Empty texts are denied, because Vault takes one for a list without
# elements, of which all are allowed.
#
# A token with this and another role must send the required parameters with reads too: Vault merges the
# rules for a path. In a query they are texts, hence the "true".
path "<mount>/keys/+" {
  capabilities        = ["update"]
  required_parameters = ["type", "derived"]
  allowed_parameters  = { "type" = ["aes256-gcm96"], "derived" = [true, "true"] }
  denied_parameters   = { "type" = [""], "derived" = [""] }
}

# Of several rules, the one with the longest beginning applies. These two keep the role from making the
# mark of an erasure or the pseudonym key. Unlike "deny", they take nothing from another role on the token.
path "<mount>/keys/erased-*" {
  capabilities = ["read"]
}

path "<mount>/keys/pseudonym" {
  capabilities = ["read"]
}
