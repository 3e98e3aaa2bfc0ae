package vault

const helperJob = "ALKNET_VAULT_HELPER"

func helper(job string, args []string) int { return 1 }
