# Held by the person or job that runs Setup: before the first use, after an upgrade, or to correct
# settings. Whoever holds it owns this Vault: it may write the policies that Setup writes and no others, but
# Vault does not look into their text, which can give any right to the tokens that have the policy. So no
# service has this role, and the token ends after the run. An administrator installs this policy; Setup
# does not.

# The grant policy contains the accessor of the token mount.
path "sys/auth" {
  capabilities = ["read"]
}

path "sys/mounts/<mount>" {
  capabilities       = ["read", "create", "update"]
  allowed_parameters = { "type" = ["transit"], "*" = [] }
}

path "sys/mounts/<mount>/tune" {
  capabilities       = ["read", "update"]
  allowed_parameters = { "audit_non_hmac_request_keys" = [], "description" = [] }
}

path "<mount>/config/keys" {
  capabilities       = ["read", "update"]
  allowed_parameters = { "disable_upsert" = [true] }
  denied_parameters  = { "disable_upsert" = [""] } # Vault allows it as an empty list, and reads it as false
}

path "<mount>/cache-config" {
  capabilities       = ["read", "update"]
  allowed_parameters = { "size" = [] }
}

path "<mount>/keys/pseudonym" {
  capabilities       = ["read", "update"]
  allowed_parameters = { "type" = ["hmac"], "key_size" = [] }
}

path "auth/token/roles/<prefix>-grant" {
  capabilities = ["read", "create", "update"]
}

path "auth/token/roles/<prefix>-describe" {
  capabilities = ["read", "create", "update"]
}

path "sys/policies/acl/<prefix>-enroller" {
  capabilities = ["read", "create", "update"]
}

path "sys/policies/acl/<prefix>-writer" {
  capabilities = ["read", "create", "update"]
}

path "sys/policies/acl/<prefix>-granter" {
  capabilities = ["read", "create", "update"]
}

path "sys/policies/acl/<prefix>-revoker" {
  capabilities = ["read", "create", "update"]
}

path "sys/policies/acl/<prefix>-grant" {
  capabilities = ["read", "create", "update"]
}

path "sys/policies/acl/<prefix>-describe" {
  capabilities = ["read", "create", "update"]
}

path "sys/policies/acl/<prefix>-rotator" {
  capabilities = ["read", "create", "update"]
}

path "sys/policies/acl/<prefix>-retirer" {
  capabilities = ["read", "create", "update"]
}

path "sys/policies/acl/<prefix>-trimmer" {
  capabilities = ["read", "create", "update"]
}

path "sys/policies/acl/<prefix>-eraser" {
  capabilities = ["read", "create", "update"]
}

path "sys/policies/acl/<prefix>-auditor" {
  capabilities = ["read", "create", "update"]
}

# Setup looks for entity aliases that a stolen granter's token could use. It lists aliases only if they are few
# enough.
path "sys/internal/counters/entities" {
  capabilities = ["read"]
}

path "identity/entity-alias/id" {
  capabilities = ["list"]
}

path "identity/entity/id/+" {
  capabilities = ["read"]
}
