# Held by auditors. It reads which keys exist and how everything is configured, and can use and change
# nothing.

path "<mount>/keys" {
  capabilities = ["list"]
}

path "<mount>/keys/+" {
  capabilities = ["read"]
}

path "<mount>/config/keys" {
  capabilities = ["read"]
}

path "<mount>/cache-config" {
  capabilities = ["read"]
}

path "sys/mounts/<mount>" {
  capabilities = ["read"]
}

path "sys/mounts/<mount>/tune" {
  capabilities = ["read"]
}

path "sys/auth" {
  capabilities = ["read"]
}

path "auth/token/roles/<prefix>-grant" {
  capabilities = ["read"]
}

path "auth/token/roles/<prefix>-describe" {
  capabilities = ["read"]
}

path "sys/policies/acl/<prefix>-*" {
  capabilities = ["read"]
}
