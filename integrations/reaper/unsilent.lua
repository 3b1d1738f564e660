-- Sound for the selected video items: runs `unsilent generate`, and inserts each take on its own track.
-- Actions > Show action list > New action > Load ReaScript. `unsilent` must be on the PATH, or set COMMAND.

local COMMAND = os.getenv("UNSILENT") or "unsilent"
local TIMEOUT_MS = 0 -- waits until the command ends

local function quoted(text)
  if package.config:sub(1, 1) == "\\" then
    return '"' .. text:gsub('"', '\\"') .. '"'
  end
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

-- A string of JSON without its escapes; signs above U+FFFF are two.
local function unescaped(text)
  local high
  return (text:gsub("\\(.)(%x?%x?%x?%x?)", function(sign, digits)
    if sign ~= "u" or #digits < 4 then return sign .. digits end
    local code = tonumber(digits, 16)
    if code >= 0xD800 and code < 0xDC00 then high = code return "" end
    if code >= 0xDC00 and code < 0xE000 then code = 0x10000 + (high - 0xD800) * 0x400 + code - 0xDC00 end
    return utf8.char(code)
  end))
end

-- Writes the project markers inside the item as a table of cues. Returns its path, or nil without markers.
local function write_cues(item, offset)
  local start = reaper.GetMediaItemInfo_Value(item, "D_POSITION")
  local stop = start + reaper.GetMediaItemInfo_Value(item, "D_LENGTH")
  local rows = {}
  for index = 0, reaper.CountProjectMarkers(0) - 1 do
    local _, is_region, position, region_end, name = reaper.EnumProjectMarkers(index)
    if position >= start and position < stop then
      local length = is_region and string.format("%.6f", region_end - position) or ""
      local label = name:match("^[%a][%w _-]*$") and not name:lower():match("^marker") and name or ""
      rows[#rows + 1] = string.format("%.6f,%s,%s", position - start + offset, label, length)
    end
  end
  if #rows == 0 then return nil end
  local path = os.tmpname() .. ".csv"
  local file = assert(io.open(path, "w"))
  file:write("seconds,label,length\n", table.concat(rows, "\n"), "\n")
  file:close()
  return path
end

local function generate(source, folder, takes, label, seed, cues)
  local words = { COMMAND, "generate", source, "-o", folder, "--wav", "--rate", "48000", "--bits", "24", "--json" }
  local options = { ["--takes"] = takes, ["--label"] = label, ["--seed"] = seed, ["--cues"] = cues }
  for _, name in ipairs({ "--takes", "--label", "--seed", "--cues" }) do
    if options[name] and options[name] ~= "" then
      words[#words + 1] = name
      words[#words + 1] = options[name]
    end
  end
  for index, word in ipairs(words) do words[index] = quoted(word) end
  local output = reaper.ExecProcess(table.concat(words, " "), TIMEOUT_MS) or ""
  local sounds = {}
  for video in output:gmatch('"out": "(.-[^\\])"') do
    sounds[#sounds + 1] = (unescaped(video):gsub("%.%w+$", ".wav"))
  end
  return sounds, output
end

local function insert(sound, item, offset, track_number, name)
  reaper.InsertTrackAtIndex(track_number, true)
  local track = reaper.GetTrack(0, track_number)
  reaper.GetSetMediaTrackInfo_String(track, "P_NAME", name, true)
  local new = reaper.AddMediaItemToTrack(track)
  local take = reaper.AddTakeToMediaItem(new)
  reaper.SetMediaItemTake_Source(take, reaper.PCM_Source_CreateFromFile(sound))
  reaper.SetMediaItemInfo_Value(new, "D_POSITION", reaper.GetMediaItemInfo_Value(item, "D_POSITION"))
  reaper.SetMediaItemInfo_Value(new, "D_LENGTH", reaper.GetMediaItemInfo_Value(item, "D_LENGTH"))
  reaper.SetMediaItemTakeInfo_Value(take, "D_STARTOFFS", offset)
  return track
end

local function main()
  local count = reaper.CountSelectedMediaItems(0)
  if count == 0 then
    reaper.ShowMessageBox("Select the video item that needs a sound.", "unsilent", 0)
    return
  end
  local agreed, answers = reaper.GetUserInputs("unsilent", 4, "Takes,Label (empty: from video),Seed,Markers as cues (y/n)", "3,,0,n")
  if not agreed then return end
  local takes, label, seed, with_cues = answers:match("([^,]*),([^,]*),([^,]*),([^,]*)")
  reaper.Undo_BeginBlock()
  for index = 0, count - 1 do
    local item = reaper.GetSelectedMediaItem(0, index)
    local take = reaper.GetActiveTake(item)
    local source = take and reaper.GetMediaSourceFileName(reaper.GetMediaItemTake_Source(take), "") or ""
    local offset = take and reaper.GetMediaItemTakeInfo_Value(take, "D_STARTOFFS") or 0
    local folder = source:gsub("[^/\\]*$", "") .. "unsilent"
    local cues = with_cues:lower() == "y" and write_cues(item, offset) or nil
    local sounds, output = generate(source, folder, takes, label, seed, cues)
    if cues then os.remove(cues) end
    if #sounds == 0 then
      reaper.ShowMessageBox(output ~= "" and output or "unsilent was not found; set COMMAND in the script.", "unsilent", 0)
    end
    local below = reaper.GetMediaTrackInfo_Value(reaper.GetMediaItem_Track(item), "IP_TRACKNUMBER")
    for number, sound in ipairs(sounds) do
      local track = insert(sound, item, offset, below + number - 1, "take " .. number)
      reaper.SetMediaTrackInfo_Value(track, "B_MUTE", number > 1 and 1 or 0)
    end
  end
  reaper.UpdateArrange()
  reaper.Undo_EndBlock("Sound by unsilent", -1)
end

main()
