-- What a provider says about its own windows: {window, remaining by its count, ms until it resets}, ...
--
-- Its count wins when it is stricter: others may use the account, or it may count differently. What it takes away is charged like a
-- use of now, to the model's window of that name, or else to the account's. Where nothing is configured, an empty window means a
-- pause until it resets. Saying the same again changes nothing.
local function learn(model_scope, account_scope, entity, learned, now)
  for _, l in ipairs(learned) do
    local name, remaining, reset = l[1], l[2], l[3]
    if not (tighten(model_scope, name, remaining) or tighten(account_scope, name, remaining)) and remaining == 0 and reset > 0 then
      deactivate(entity, 'rate_limited', now + reset, 'time', now)
    end
  end
end
