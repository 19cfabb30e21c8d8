# For whoever compares Vault with what setup makes: "recvault audit setup". It reads settings, policies, token roles and
# what Vault knows of each token. It shows no key, no token and no patient identifier, and changes nothing. An
# administrator installs it under any name; Setup does not, because it reaches beyond recvault's part of Vault.

# "sudo" is Vault's demand for these two paths, and for leases below.
path "sys/audit" {
  capabilities = ["read", "sudo"]
}

path "sys/config/auditing/request-headers" {
  capabilities = ["read", "sudo"]
}

# How the audit log shows the requests of every mount and auth method.
path "sys/mounts" {
  capabilities = ["read"]
}

# Whether Vault keeps answers of the engine, with keys in clear, under wrapping tokens. A lease's name is no token.
path "sys/leases/lookup/<mount>" {
  capabilities = ["list", "sudo"]
}

path "sys/leases/lookup/<mount>/*" {
  capabilities = ["list", "sudo"]
}

# Limits of requests.
path "sys/quotas/config" {
  capabilities = ["read"]
}

path "sys/quotas/rate-limit" {
  capabilities = ["list"]
}

path "sys/quotas/rate-limit/+" {
  capabilities = ["read"]
}

path "sys/mounts/<mount>" {
  capabilities = ["read"]
}

path "sys/auth" {
  capabilities = ["read"]
}

path "<mount>/config/keys" {
  capabilities = ["read"]
}

path "<mount>/cache-config" {
  capabilities = ["read"]
}

path "<mount>/keys" {
  capabilities = ["list"]
}

path "<mount>/keys/+" {
  capabilities = ["read"]
}

path "sys/policies/acl" {
  capabilities = ["list"]
}

path "sys/policies/acl/+" {
  capabilities = ["read"]
}

path "auth/token/roles" {
  capabilities = ["list"]
}

path "auth/token/roles/+" {
  capabilities = ["read"]
}

path "sys/internal/counters/entities" {
  capabilities = ["read"]
}

path "identity/entity-alias/id" {
  capabilities = ["list"]
}

path "identity/entity/id/+" {
  capabilities = ["read"]
}

# "sudo" is Vault's demand. An accessor is no token: with it, a token can be looked up, and ended with a right to that.
path "auth/token/accessors" {
  capabilities = ["list", "sudo"]
}

# "update" is Vault's name for this look-up.
path "auth/token/lookup-accessor" {
  capabilities = ["update"]
}

path "auth/token/lookup-self" {
  capabilities = ["read"]
}
