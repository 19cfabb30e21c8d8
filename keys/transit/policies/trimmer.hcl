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

# Before it changes anything, it has every wrapped key of the patient re-wrapped, which proves that the
# key still opens them. It throws the results away, and sees no key.
path "<mount>/rewrap/+" {
  capabilities       = ["update"]
  allowed_parameters = { "batch_input" = [] }
}

# The mount's description says which bucket and prefix the keys are for. Elsewhere, the job refuses.
path "sys/mounts/<mount>/tune" {
  capabilities = ["read"]
}
