// The page: the open upload or job, the form and the list of results. All state is on the server; the URL has the id of what is open.

import { bytes, call, follow, post, upload } from "./api.js"
import * as draw from "./draw.js"
import * as overTime from "./over-time.js"
import * as player from "./player.js"
import * as research from "./research.js"

const $ = (id) => document.getElementById(id)
const [models, NAMES] = [new Map(), { generate: "sound", retake: "retake", reconstruct: "own sound and reconstruction", encode: "codes", decode: "decoded sound" }]
const STAGES = {
  waiting: "Waiting", loading: "Loading the model", reading: "Reading the video", sampling: "Sampling the sound",
  decoding: "Decoding", encoding: "Encoding", listening: "Classifying the sounds",
}
const PROGRAMS = { otio: "OpenTimelineIO", rpp: "Reaper (RPP)", mid: "MIDI of onsets", edl: "Cut list (EDL)" }
let [input, job, heard, unfollow] = [null, null, null, () => {}]

function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag)
  element.textContent = text
  for (const [name, value] of Object.entries(attributes)) name.startsWith("on") ? element.addEventListener(name.slice(2), value) : element.setAttribute(name, value)
  return element
}

function complain(sentence) {
  $("trouble").textContent = sentence
  $("trouble").hidden = false
  $("trouble").scrollIntoView({ block: "nearest" })
}

// Runs an action of the user. Hides the last error, and shows the new one if the action fails.
export async function attempt(work) {
  $("trouble").hidden = true
  try {
    return await work()
  } catch (error) {
    complain(error.message)
    return undefined
  }
}

// ---- the upload

export function openInput(found) {
  [input, job] = [found, null]
  unfollow()
  player.open(found)
  player.select(0, 0)
  location.hash = `input=${found.id}`
  overTime.clear()
  if (found.label) $("label").value = found.label
  show({ drop: false, stage: true, timeline: found.kind !== "codes", working: false, outcome: false })
  $("want-own").checked = Boolean(found.label && found.has_sound)
  for (const [id, needs] of [["want-own", found.has_sound], ["make", found.kind === "video"], ["compare", found.kind !== "codes" && found.has_sound], ["encode", found.kind !== "codes" && found.has_sound]]) $(id).disabled = !needs
  if (found.kind === "codes") ask({ kind: "decode" })
}

function show(shown) { for (const [id, yes] of Object.entries(shown)) $(id).hidden = !yes }

async function send(file) {
  show({ uploading: true })
  const found = await attempt(() => upload(file, (share) => {
    $("upload-share").value = share
    $("upload-text").textContent = share < 1 ? `${Math.round(100 * share)} % of ${file.name}` : "Checking the file"
  }))
  show({ uploading: false })
  return found
}
const sendAndOpen = async (file) => { const found = file && await send(file); if (found) openInput(found) }

$("file").addEventListener("change", () => { sendAndOpen($("file").files[0]); $("file").value = "" })
$("example").addEventListener("click", () => attempt(async () => openInput(await post("api/inputs/example"))))
$("another").addEventListener("click", () => { show({ drop: true, stage: false, timeline: false, working: false, outcome: false }); location.hash = ""; $("make").disabled = true })
for (const name of ["dragover", "dragleave", "drop"]) document.addEventListener(name, (event) => {
  event.preventDefault()
  $("drop").classList.toggle("over", name === "dragover")
  if (name === "drop") sendAndOpen(event.dataTransfer.files[0])
})
for (const name of ["prime", "like"]) $(`${name}-file`).addEventListener("change", async () => {
  const found = $(`${name}-file`).files[0] && await send($(`${name}-file`).files[0])
  if (!found) return
  $(name).append(make("option", found.name, { value: found.id }))
  $(name).value = found.id
})

// ---- the form

function showModel() {
  const model = models.get($("model").value)
  if (!model) return
  $("knows").textContent = model.knows
  for (const name of ["temperature", "top_k", "guidance", "candidates"]) $(name).placeholder = model[name] || ""
  $("top_k").max = model.n_codes
  $("labels").replaceChildren(...model.classes.map((name) => make("option", "", { value: name })))
  $("label").disabled = !model.classes.length
  $("label").required = model.classes.length > 0 && !model.sees
  $("label-note").textContent = model.classes.length ? `One of ${model.classes.length} classes${model.sees ? "; if empty, it is recognised in the video" : ""}.` : "This model takes no label."
  for (const name of ["candidates", "avoid", "like"]) $(name).disabled = !model.candidates
}
$("model").addEventListener("change", showModel)

function requested() {
  const timing = $("timing").value
  const request = { motion: timing !== "none", original: $("original").value, scenes: $("scenes").value, bits: $("bits").value, stereo: $("stereo").checked, ...overTime.fields(timing === "auto") }
  if (timing !== "mine" && timing !== "auto") delete request.cues
  for (const name of ["takes", "seed", "temperature", "top_k", "guidance", "candidates", "seconds", "rate", "lufs", "true_peak", "fade_in", "fade_out"]) {
    const field = $("form").elements[name]
    if (field.value !== "" && !field.disabled) request[name] = Number(field.value)
  }
  if ($("label").value && !$("label").disabled) request.label = $("label").value
  if (!$("avoid").disabled && $("avoid").value.trim()) request.avoid = $("avoid").value.split(",")
  if (!$("like").disabled && $("like").value) request.like = $("like").value
  if ($("prime").value) {
    Object.assign(request, { prime: $("prime").value, prime_keep: $("prime_keep").value })
    if ($("prime_seconds").value) request.prime_seconds = Number($("prime_seconds").value)
  }
  return request
}

async function ask(fields) {
  const asked = { input: input.id, model: $("model").value || "everyday", ...fields }
  const made = await attempt(() => post("api/jobs", asked))
  if (made) openJob(made)
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault()
  if (input) ask({ kind: "generate", vocoder: $("vocoder").value, compare: $("want-own").checked && !$("want-own").disabled, attention: $("want-attention").checked, request: requested() })
})
$("compare").addEventListener("click", () => ask({ kind: "reconstruct" }))
$("encode").addEventListener("click", () => ask({ kind: "encode" }))
$("retake").addEventListener("click", () => {
  const range = player.state.range
  if (!range || !heard?.video) return
  const label = $("label").disabled ? "" : $("label").value
  ask({ kind: "retake", again: { job: job.id, sound: heard.video, start: range[0], stop: range[1], takes: Number($("takes-wanted").value), ...(label && { label }) } })
})
$("less-prior").addEventListener("change", () => hear(heard))
$("stop").addEventListener("click", () => attempt(() => post(`api/jobs/${job.id}/stop`)))

// Fills the form with the parameters of a job.
function restore(asked) {
  const { request } = asked
  $("model").value = asked.model
  showModel()
  $("vocoder").value = asked.vocoder
  $("want-attention").checked = asked.attention
  for (const name of ["takes", "seed", "temperature", "top_k", "guidance", "candidates", "seconds", "label", "original", "prime_seconds", "prime_keep", "scenes", "rate", "bits", "lufs", "true_peak", "fade_in", "fade_out"]) {
    $("form").elements[name].value = request[name] ?? ""
  }
  $("stereo").checked = request.stereo
  $("want-own").checked = asked.compare
  $("avoid").value = (request.avoid || []).join(", ")
  for (const name of ["prime", "like"]) {
    const id = request[name] || ""
    if (![...$(name).options].some((one) => one.value === id)) $(name).append(make("option", "the file of this job", { value: id }))
    $(name).value = id
  }
  $("timing").value = request.cues === "auto" ? "auto" : request.cues ? "mine" : request.motion === false ? "none" : "motion"
  overTime.take(request)
}

// ---- a job

async function openJob(found) {
  unfollow()
  job = found
  player.select(0, 0)
  location.hash = `job=${found.id}`
  if (!input || input.id !== found.ask.input) {
    input = await call(`api/inputs/${found.ask.input}`).catch(() => null)
    if (input) player.open(input)
  }
  if (found.ask.kind === "generate") restore(found.ask)
  show({ drop: false, stage: true, timeline: input !== null && input.kind !== "codes", outcome: false })
  for (const id of ["make", "compare", "encode"]) $(id).disabled = !input || (id === "make" ? input.kind !== "video" : !input.has_sound || input.kind === "codes")
  list()
  if (["done", "stopped", "failed"].includes(found.state)) return showOutcome(found)
  show({ working: true, growing: false })
  $("status").textContent = "Sent"
  unfollow = follow(found.id, { progress: showProgress, mel: grow, sound: (sound) => { job.sounds = [...(job.sounds || []), sound] }, end: (ended) => { showOutcome(ended, true); list() } })
}

function showProgress(now) {
  $("share").value = now.share
  const text = now.state === "queued" ? `Position ${now.position} in the queue; about ${Math.ceil(now.wait_seconds)} s to wait.` : STAGES[now.stage] || now.stage
  if ($("status").textContent !== text) $("status").textContent = text  // screen readers announce stages, not each per cent
}

function grow(part) {
  const canvas = $("growing")
  if (canvas.hidden) {
    canvas.hidden = false
    Object.assign(canvas, { width: Math.max(1, Math.ceil((job.ask.request.seconds || input?.seconds || 10) * part.rate)), height: part.bands })
  }
  draw.columns(canvas, draw.fromBase64(part.mel), part.bands, part.start)
}

function showOutcome(ended, isNew = false) {
  job = ended
  show({ working: false, outcome: ended.sounds?.length > 0 || Boolean(ended.codes) })
  if (ended.sounds?.length) show({ timeline: true })
  if (ended.why) complain(ended.why)
  if ($("outcome").hidden) return
  $("outcome-title").textContent = ended.state === "stopped" ? "Sounds, stopped early" : ["generate", "retake"].includes(ended.ask.kind) ? "Sounds" : NAMES[ended.ask.kind]
  const days = Math.max(0, (ended.expires - Date.now() / 1000) / 3600)
  const notes = [`Finished in ${ended.spent_seconds} s.`, ended.sounds.length > 1 && ended.sounds[0].score != null ? "The best take comes first." : "",
    ...(ended.notes || []), `Kept for ${days.toFixed(0)} hours.`]
  $("outcome-note").textContent = notes.filter(Boolean).join(" ")
  $("recipe").textContent = JSON.stringify({ ...ended.recipe, timings: ended.timings, spent_seconds: ended.spent_seconds }, null, 2)
  $("seen-title").textContent = ended.ask.request.label ? "Your label" : "Recognised in the video"
  showList($("seen"), Object.entries(ended.seen || {}))
  $("seen-none").textContent = Object.keys(ended.seen || {}).length ? "" : "No class was recognised, or this job does not use the video."
  const files = `api/jobs/${ended.id}/files/`
  $("stills").hidden = !ended.stills
  if (ended.stills) $("stills").src = files + ended.stills.file
  $("features").hidden = !ended.features
  if (ended.features) bytes(files + ended.features.file).then((data) => draw.map($("features"), data, ended.features.rows))
  $("takes").replaceChildren(...ended.sounds.map((sound, at) => make("button", nameOf(sound, at), { type: "button", "aria-pressed": "false", onclick: () => hear(sound) })))
  showDownloads(null)
  if (ended.sounds.length) hear(ended.sounds[0])
  if (isNew) $("outcome-title").focus({ preventScroll: true })
}

const nameOf = (sound, at) => (sound.sampled_seconds ? `${sound.name} · ${sound.sampled_seconds.toFixed(1)} of ${sound.seconds.toFixed(1)} s` : sound.score == null ? sound.name : `${sound.name} · rank ${at + 1} · ${sound.score.toFixed(2)}`)

function hear(sound) {
  job.sounds.forEach((one, at) => $("takes").children[at].setAttribute("aria-pressed", String(one === sound)))
  showList($("heard"), sound.heard || [])
  const seen = sound.attention
  const share = seen && seen.to_condition !== undefined ? ` ${(100 * seen.to_condition).toFixed(0)} % goes to the condition, the rest to earlier codes.` : ""
  $("attention-note").textContent = seen ? `The image below the spectrogram shows the attention of each code column; its vertical axis is the ${seen.of}.${share}` : ""
  $("prior").hidden = !seen
  heard = sound
  showDownloads(sound)
  attempt(() => player.hear(job, sound, input))
}

function showList(list, pairs) {
  list.replaceChildren(...pairs.map(([name, value]) => {
    const item = make("li")
    item.append(make("span", name.replaceAll("_", " ")), make("meter", "", { value, min: 0, max: 1, "aria-label": name }), make("b", `${(100 * value).toFixed(0)} %`))
    return item
  }))
}

function showDownloads(sound) {
  const link = (text, name) => make("a", text, { class: "button", href: `api/jobs/${job.id}/files/${name}?download=true`, download: "" })
  const fill = (id, links) => $(id).replaceChildren(...links.filter(([name]) => name).map(([name, text]) => link(text, name)))
  fill("downloads", [[sound?.video, "Video"], [sound?.wav, "Sound (WAV)"], [sound?.flac, "FLAC"], [sound?.opus, "Opus"], [job.codes, "Codes (.uns)"]])
  if (sound) $("downloads").append(make("button", "Spectrogram (PNG)", { type: "button", onclick: savePicture }))
  if (job.projects?.length) $("downloads").append(make("a", "Everything (ZIP)", { class: "button", href: `api/jobs/${job.id}/all.zip`, download: "" }))
  fill("projects", [...Object.entries(sound?.stems || {}).map(([label, name]) => [name, `Stem: ${label}`]), ...(job.projects || []).map((name) => [name, PROGRAMS[name.split(".")[1]]]),
    [sound?.project, "Project (JSON)"], [job.recipe && "recipe.json", "Recipe (JSON)"]])
  $("further").hidden = !$("projects").children.length
}

const savePicture = () => $("mel").toBlob((picture) => {
  const link = make("a", "", { href: URL.createObjectURL(picture), download: `${job.name || "sound"}.png` })
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 1000)
})

// ---- all results

async function list() {
  const jobs = await call("api/jobs").catch((error) => { complain(error.message); return [] })
  $("results-note").textContent = jobs.length ? "" : "No results yet. They stay here when you reload the page."
  $("list").replaceChildren(...jobs.map((one) => {
    const { request, kind, model } = one.ask
    const again = one.ask.again
    const about = again ? `${again.start?.toFixed(2)} to ${again.stop?.toFixed(2)} s regenerated` : kind === "generate" ? `${model}, seed ${request.seed}, takes ${request.takes}${request.label ? `, ${request.label}` : ""}` : model
    const item = make("li")
    const text = make("span", `${one.name || "deleted upload"}: ${NAMES[kind]}`)
    text.append(make("small", `${new Date(1000 * one.created).toLocaleString()} · ${about} · ${one.state}${one.why ? `: ${one.why}` : ""}`))
    const remove = async () => { if (await attempt(() => call(`api/jobs/${one.id}`, { method: "DELETE" })) !== undefined) list() }
    item.append(text, make("button", "Open", { type: "button", "aria-label": `Open ${one.name} of ${new Date(1000 * one.created).toLocaleTimeString()}`, onclick: async () => { await openJob(one); $("film").scrollIntoView() } }),
      make("button", "Delete", { type: "button", "aria-label": `Delete ${one.name} of ${new Date(1000 * one.created).toLocaleTimeString()}`, onclick: remove }))
    return item
  }))
}

// ---- start

async function begin() {
  const [found, limits, health] = await Promise.all([call("api/models"), call("api/limits"), call("api/health")])
  for (const model of found) models.set(model.name, model)
  $("model").replaceChildren(...found.map((model) => make("option", model.name)))
  showModel()
  $("takes-wanted").max = Math.min($("takes-wanted").max, limits.max_takes)
  $("limits").textContent = `Up to ${Math.round(limits.max_seconds / 60)} minutes and ${Math.round(limits.max_bytes / 1e6)} MB. Uploads and results stay on this server for ${limits.keep_hours} hours.`
  $("wait").textContent = limits.wait_seconds > 1 ? `Other jobs come first: about ${Math.ceil(limits.wait_seconds)} s to wait.` : ""
  $("about").textContent = `unsilent ${health.version}`
  research.begin(limits.research, (number) => attempt(async () => { openInput(await post(`api/material/${number}/open`)); $("film").scrollIntoView() }))
  const [kind, id] = location.hash.slice(1).split("=")
  if (kind === "job" && id) await attempt(async () => openJob(await call(`api/jobs/${id}`)))
  else if (kind === "input" && id) await attempt(async () => openInput(await call(`api/inputs/${id}`)))
  await list()
  document.body.dataset.ready = "yes"
}
attempt(begin)
