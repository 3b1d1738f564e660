// Edits the parts of a request that vary over time: cues on the time axis, silent ranges and labelled ranges.

import * as player from "./player.js"

const $ = (id) => document.getElementById(id)
const STEP = 0.02  // seconds that an arrow key moves a cue
const state = { cues: [], mute: [], prompt_track: [] }

const text = (seconds) => seconds.toFixed(2)
const share = (seconds) => `${(100 * seconds) / (player.state.length || 1)}%`

function mark(cue) {
  const button = document.createElement("button")
  Object.assign(button, { type: "button", className: "cue", textContent: "▼" })
  const place = (seconds) => {
    cue.seconds = Math.min(player.state.length, Math.max(0, seconds))
    button.style.left = share(cue.seconds)
    button.setAttribute("aria-label", `Cue at ${text(cue.seconds)} s; arrows move it, Delete removes it`)
  }
  place(cue.seconds)
  button.addEventListener("pointerdown", (event) => {
    button.setPointerCapture(event.pointerId)
    const box = $("marks").getBoundingClientRect()
    const move = (later) => place(((later.clientX - box.left) / box.width) * player.state.length)
    button.addEventListener("pointermove", move)
    button.addEventListener("pointerup", () => { button.removeEventListener("pointermove", move); show() }, { once: true })
  })
  button.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -STEP, ArrowRight: STEP }
    if (event.key in steps) place(cue.seconds + steps[event.key])
    else if (event.key === "Delete" || event.key === "Backspace") remove("cues", cue)
    else return
    event.preventDefault()
    list()
  })
  return button
}

function band(stretch) {
  const element = document.createElement("span")
  element.className = stretch.label ? "band named" : "band"
  element.textContent = stretch.label || "silent"
  element.style.left = share(stretch.start)
  element.style.width = share(stretch.stop - stretch.start)
  return element
}

function remove(kind, one) {
  state[kind].splice(state[kind].indexOf(one), 1)
  show()
  $("add-cue").focus()
}

function list() {
  const entries = [...state.cues.map((one) => ["cues", one, `cue at ${text(one.seconds)} s`]),
    ...state.mute.map((one) => ["mute", one, `silent from ${text(one.start)} to ${text(one.stop)} s`]),
    ...state.prompt_track.map((one) => ["prompt_track", one, `${one.label} from ${text(one.start)} to ${text(one.stop)} s`])]
  $("planned").replaceChildren(...entries.map(([kind, one, words]) => {
    const item = document.createElement("li")
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Remove" })
    button.setAttribute("aria-label", `Remove ${words}`)
    button.addEventListener("click", () => remove(kind, one))
    item.append(words, " ", button)
    return item
  }))
}

export function show() {
  $("marks").replaceChildren(...[...state.mute, ...state.prompt_track].map(band), ...state.cues.map(mark))
  list()
}

export function clear() {
  for (const kind of Object.keys(state)) state[kind] = []
  show()
}

// Returns the fields of the request; `auto` puts cues at visible impacts.
export function fields(auto) {
  const found = Object.fromEntries(Object.entries(state).filter(([, entries]) => entries.length))
  if (auto) found.cues = "auto"
  return found
}

export function take(request) {
  state.cues = Array.isArray(request.cues) ? request.cues.map((one) => ({ ...one })) : []
  for (const kind of ["mute", "prompt_track"]) state[kind] = (request[kind] || []).map((one) => ({ ...one }))
  show()
}

$("add-cue").addEventListener("click", () => {
  state.cues.push({ seconds: player.state.time })
  state.cues.sort((a, b) => a.seconds - b.seconds)
  $("timing").value = "mine"
  show()
})
$("silence").addEventListener("click", () => {
  const range = player.state.range
  if (range) state.mute.push({ start: range[0], stop: range[1] })
  show()
})
$("name-range").addEventListener("click", () => {
  const range = player.state.range
  if (range && $("label").value) state.prompt_track.push({ start: range[0], stop: range[1], label: $("label").value })
  show()
})
