# Held by the process that ends other users' grants: a lost device, a changed care relationship. It is
# separate from the granter because it can end any token in Vault by its accessor.

path "auth/token/revoke-accessor" {
  capabilities = ["update"]
}
