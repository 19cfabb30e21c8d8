# Held by whoever runs Setup: before the first use, after an upgrade, when something drifted. Not by
# any service, and not for longer than that: it decides what the other roles may do. It can use no
# key. Setup does not install this policy; an administrator does.

# The accessor of the token mount, which stands in the grant policy.
path "sys/auth" {
  capabilities = ["read"]
}

path "sys/mounts/<mount>" {
  capabilities       = ["read", "create", "update"]
  allowed_parameters = { "type" = ["transit"], "*" = [] }
}

path "sys/mounts/<mount>/tune" {
  capabilities       = ["read", "update"]
  allowed_parameters = { "audit_non_hmac_request_keys" = [] }
}

path "<mount>/config/keys" {
  capabilities       = ["read", "update"]
  allowed_parameters = { "disable_upsert" = [true] }
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
