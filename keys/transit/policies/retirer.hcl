# Held by the job that retires old key versions and can reinstate them. Vault archives retired versions.
# The role destroys no key and can use none.

path "<mount>/keys" {
  capabilities = ["list"]
}

path "<mount>/keys/+" {
  capabilities = ["read"]
}

# The newest version becomes the minimum for encryption, so that no token that may re-wrap can go back to an
# older one. It never stops a wrap: wraps use the newest version, and Vault lets no minimum be above that.
path "<mount>/keys/+/config" {
  capabilities       = ["update"]
  allowed_parameters = { "min_decryption_version" = [], "min_encryption_version" = [] }
}

path "<mount>/keys/pseudonym/config" {
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
