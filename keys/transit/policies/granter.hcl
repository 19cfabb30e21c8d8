# Held by the one place that decides who may see what: the login, the care-relationship check. Never
# by the process that lists and serves recordings: whoever holds this can have a grant for anybody.
# It can use no key itself.

path "<mount>/hmac/pseudonym/sha2-256" {
  capabilities       = ["update"]
  allowed_parameters = { "input" = [], "key_version" = [] }
}

# Neither policies, nor a period, nor a token type can be asked for, and every grant says whose
# recordings it is for and who holds it.
path "auth/token/create/<prefix>-grant" {
  capabilities        = ["update"]
  required_parameters = ["entity_alias", "meta", "ttl"]
  allowed_parameters = {
    "entity_alias"      = []
    "meta"              = []
    "ttl"               = []
    "num_uses"          = []
    "renewable"         = [false]
    "no_default_policy" = [true]
  }

  # A KeyID has none of these. A wildcard would do no harm, thanks to the suffixes in the grant policy.
  # Capitals would: Vault takes an alias in capitals for the same alias, keeps the spelling that came
  # first, and would refuse that patient every later grant's use. The last two letters, of Turkish
  # and for Kelvin, become "i" and "k" in lower case.
  denied_parameters = {
    "entity_alias" = [
      "", "***", "*+*", "*/*", "*.*", "*,*", "* *",
      "*A*", "*B*", "*C*", "*D*", "*E*", "*F*", "*G*", "*H*", "*I*", "*J*", "*K*", "*L*", "*M*",
      "*N*", "*O*", "*P*", "*Q*", "*R*", "*S*", "*T*", "*U*", "*V*", "*W*", "*X*", "*Y*", "*Z*",
      "*\u0130*", "*\u212a*",
    ]
  }
}
