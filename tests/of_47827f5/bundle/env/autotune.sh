# autotune: kimi-k2.5-w4a8, offline:mi325x
export AUTOTUNE_MOE_CONFIG=/srv/autotune/moe_w4a8.json
