# Held by the one process that decides who may see what: the login, the care-relationship check. It can
# issue a grant for any patient, so the process that lists and serves recordings must never have it. It
# can use no key itself.

path "<mount>/hmac/pseudonym/sha2-256" {
  capabilities       = ["update"]
  allowed_parameters = { "input" = [], "key_version" = [] }
}

# A request cannot ask for policies, a period or a token type. Every grant names its patient (the entity
# alias). Vault takes metadata that is empty or wrong: it is what the issuer wrote, and proves nothing.
path "auth/token/create/<prefix>-grant" {
  capabilities        = ["update"]
  required_parameters = ["entity_alias", "meta", "ttl"]
  allowed_parameters = {
    "entity_alias"      = ["*-kek"]
    "meta"              = []
    "ttl"               = []
    "num_uses"          = []
    "renewable"         = [false]
    "no_default_policy" = [true]
  }

  # An alias is a KeyID and the suffix of its envelope key, so a grant cannot become a foreign entity that the
  # token mount may have, unless its alias has that form too. A KeyID contains none of these. Capitals would
  # do harm: Vault treats an alias in capitals as the same alias and keeps the first spelling, so that every
  # later grant of that patient would be refused. The last two letters, Turkish dotted I and the Kelvin
  # sign, become "i" and "k" in lower case.
  denied_parameters = {
    "entity_alias" = [
      "", "***", "*+*", "*/*", "*.*", "*,*", "* *",
      "*A*", "*B*", "*C*", "*D*", "*E*", "*F*", "*G*", "*H*", "*I*", "*J*", "*K*", "*L*", "*M*",
      "*N*", "*O*", "*P*", "*Q*", "*R*", "*S*", "*T*", "*U*", "*V*", "*W*", "*X*", "*Y*", "*Z*",
      "*\u0130*", "*\u212a*", "*0*", "*1*", "*8*", "*9*", "*_*", "*@*", "*:*",
    ]
  }
}

# A grant that can only describe.
path "auth/token/create/<prefix>-describe" {
  capabilities        = ["update"]
  required_parameters = ["entity_alias", "meta", "ttl"]
  allowed_parameters = {
    "entity_alias"      = ["*-kek"]
    "meta"              = []
    "ttl"               = []
    "num_uses"          = []
    "renewable"         = [false]
    "no_default_policy" = [true]
  }

  # An alias is a KeyID and the suffix of its envelope key, so a grant cannot become a foreign entity that the
  # token mount may have, unless its alias has that form too. A KeyID contains none of these. Capitals would
  # do harm: Vault treats an alias in capitals as the same alias and keeps the first spelling, so that every
  # later grant of that patient would be refused. The last two letters, Turkish dotted I and the Kelvin
  # sign, become "i" and "k" in lower case.
  denied_parameters = {
    "entity_alias" = [
      "", "***", "*+*", "*/*", "*.*", "*,*", "* *",
      "*A*", "*B*", "*C*", "*D*", "*E*", "*F*", "*G*", "*H*", "*I*", "*J*", "*K*", "*L*", "*M*",
      "*N*", "*O*", "*P*", "*Q*", "*R*", "*S*", "*T*", "*U*", "*V*", "*W*", "*X*", "*Y*", "*Z*",
      "*\u0130*", "*\u212a*", "*0*", "*1*", "*8*", "*9*", "*_*", "*@*", "*:*",
    ]
  }
}
