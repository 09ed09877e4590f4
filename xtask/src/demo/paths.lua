-- wrk asks for the paths given after `--` in turn, so that a run meets objects of several sizes.
local requests = {}
local turn = 0

function init(arguments)
   for number, path in ipairs(arguments) do
      requests[number] = wrk.format("GET", path)
   end
end

function request()
   turn = turn % #requests + 1
   return requests[turn]
end
