# Held by what ends grants that it does not hold: a lost device, a changed care relationship. It is
# apart from the granter because it can end any token in Vault whose accessor it knows.

path "auth/token/revoke-accessor" {
  capabilities = ["update"]
}
