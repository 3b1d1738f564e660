// Plays the video and its sounds on one time axis, with a playhead and a selected range.

import * as draw from "./draw.js"
import { bytes } from "./api.js"

const $ = (id) => document.getElementById(id)
const [video, audio] = [$("player"), $("sound")]
const DRIFT = 0.08  // seconds of offset between video and audio, above which the audio is moved

let [length, range, heard, until] = [0, null, null, null]

export const state = { get time() { return video.currentTime }, get range() { return range }, get length() { return length } }

const place = (element, seconds) => { element.style.left = `${(100 * Math.min(1, Math.max(0, seconds / (length || 1)))).toFixed(3)}%` }
export const show = (seconds) => `${seconds.toFixed(2)} s`

function load(source) {
  if (video.getAttribute("src") === source) return
  const [at, playing] = [video.currentTime, !video.paused]
  video.src = source
  video.addEventListener("loadedmetadata", () => {
    video.currentTime = Math.min(at, video.duration || at)
    if (playing) video.play().catch(() => {})
  }, { once: true })
}

// Shows the upload, before any sound is generated.
export function open(input) {
  heard = null
  audio.removeAttribute("src")
  video.muted = false
  video.classList.toggle("blind", input.kind === "sound")
  if (input.kind !== "codes") load(`api/inputs/${input.id}/file`)
  setLength(input.seconds)
  $("timeline").classList.add("empty")
  for (const id of ["stills", "attention"]) $(id).hidden = true
  $("playing").textContent = input.kind === "codes" ? "A file of codes." : input.has_sound ? "Playing the upload's own sound." : "The video has no sound yet."
}

function setLength(seconds) {
  length = seconds
  $("tracks").setAttribute("aria-valuemax", seconds.toFixed(2))
  const n = innerWidth < 520 ? 4 : 10
  $("ticks").replaceChildren(...Array.from({ length: n + 1 }, (_, at) => {
    const tick = document.createElement("span")
    tick.textContent = `${((seconds * at) / n).toFixed(seconds < 20 ? 1 : 0)}${at === n ? " s" : ""}`
    tick.style.left = `${(100 * at) / n}%`
    return tick
  }))
  for (const name of ["from", "to"]) $(name).max = seconds
}

// Plays and draws a sound of a job. A sound without its own video plays with the muted upload.
export async function hear(job, sound, input) {
  heard = sound
  const files = `api/jobs/${job.id}/files/`
  setLength(sound.seconds)
  const blind = !sound.video && input?.kind !== "video"
  video.classList.toggle("blind", blind)
  if (sound.video || blind) {
    audio.removeAttribute("src")
    video.muted = false
    load(files + (sound.video || sound.wav))
  } else {
    audio.src = files + sound.wav
    video.muted = true
    load(`api/inputs/${input.id}/file`)
  }
  $("playing").textContent = `Playing: ${sound.name}.`
  $("timeline").classList.remove("empty")
  const [mel, outline] = await Promise.all([bytes(files + sound.mel), bytes(files + sound.outline)])
  if (heard !== sound) return
  draw.map($("mel"), mel, sound.bands, sound.mel_seconds / sound.seconds)
  draw.wave($("wave"), new Int8Array(outline.buffer))
  $("attention").hidden = !sound.attention
  if (!sound.attention) return
  const seen = await bytes(files + sound.attention.file)
  const shown = $("less-prior").checked ? draw.withoutMean(seen, sound.attention.rows) : seen
  draw.map($("attention"), shown, sound.attention.rows, sound.mel_seconds / sound.seconds)
}

addEventListener("resize", () => { if (length) setLength(length) })

video.addEventListener("error", () => {
  if (!video.getAttribute("src")) return
  $("playing").textContent = "This browser cannot show this video and plays only the sound. Downloads contain both."
  video.classList.add("blind")
  const job = (video.getAttribute("src").match(/api\/jobs\/[^/]+\/files\//) || [])[0]
  if (job && heard && heard.video) load(job + heard.wav)
})

// keeps the audio element in sync with the video
const follow = () => { if (audio.getAttribute("src") && Math.abs(audio.currentTime - video.currentTime) > DRIFT) audio.currentTime = video.currentTime }
video.addEventListener("play", () => { follow(); if (audio.getAttribute("src")) audio.play().catch(() => {}) })
video.addEventListener("pause", () => audio.pause())
video.addEventListener("seeking", follow)
video.addEventListener("timeupdate", follow)
video.addEventListener("volumechange", () => { audio.volume = video.volume; if (audio.getAttribute("src")) video.muted = true })

function tick() {
  place($("playhead"), video.currentTime)
  $("tracks").setAttribute("aria-valuenow", video.currentTime.toFixed(2))
  $("tracks").setAttribute("aria-valuetext", show(video.currentTime))
  if (until !== null && video.currentTime >= until) { video.pause(); until = null }
  requestAnimationFrame(tick)
}
requestAnimationFrame(tick)

export function seek(seconds) { video.currentTime = Math.min(length, Math.max(0, seconds)); until = null }
const toggle = () => (video.paused ? video.play().catch(() => {}) : video.pause())

export function select(from, to) {
  range = to - from > 0.02 ? [Math.max(0, from), Math.min(length, to)] : null
  $("range").hidden = !range
  if (range) {
    place($("range"), range[0])
    $("range").style.width = `${(100 * (range[1] - range[0])) / length}%`
  }
  $("from").value = range ? range[0].toFixed(2) : ""
  $("to").value = range ? range[1].toFixed(2) : ""
  for (const button of document.querySelectorAll(".of-range")) button.disabled = !range
}

const at = (event) => {
  const box = $("tracks").getBoundingClientRect()
  return (Math.min(1, Math.max(0, (event.clientX - box.left) / box.width))) * length
}
$("tracks").addEventListener("pointerdown", (event) => {
  const first = at(event)
  $("tracks").setPointerCapture(event.pointerId)
  const move = (later) => { if (Math.abs(later.clientX - event.clientX) > 4) select(Math.min(first, at(later)), Math.max(first, at(later))) }
  $("tracks").addEventListener("pointermove", move)
  $("tracks").addEventListener("pointerup", (last) => {
    $("tracks").removeEventListener("pointermove", move)
    if (Math.abs(last.clientX - event.clientX) <= 4) seek(first)
  }, { once: true })
})
$("tracks").addEventListener("keydown", (event) => {
  if (event.target !== $("tracks")) return
  const steps = { ArrowLeft: -0.1, ArrowDown: -0.1, ArrowRight: 0.1, ArrowUp: 0.1, PageDown: -1, PageUp: 1 }
  if (event.key in steps) seek(video.currentTime + steps[event.key])
  else if (event.key === "Home") seek(0)
  else if (event.key === "End") seek(length)
  else if (event.key === " ") toggle()
  else return
  event.preventDefault()
})
for (const name of ["from", "to"]) $(name).addEventListener("change", () => {
  const [from, to] = [Number($("from").value || 0), Number($("to").value || length)]
  if (from < to) select(from, to)
})
$("clear-range").addEventListener("click", () => select(0, 0))
$("play-range").addEventListener("click", () => {
  if (!range) return
  seek(range[0])
  until = range[1]
  video.play().catch(() => {})
})
