# Held by the job that destroys retired key versions, for good. Guard it like the eraser's. It can use
# no key. Vault does not let it destroy a version that still unwraps, and it cannot retire one.

path "<mount>/keys/+" {
  capabilities = ["read"]
}

path "<mount>/keys/+/trim" {
  capabilities        = ["update"]
  required_parameters = ["min_available_version"]
  allowed_parameters  = { "min_available_version" = [] }
}

path "<mount>/keys/pseudonym/trim" {
  capabilities = ["deny"]
}
