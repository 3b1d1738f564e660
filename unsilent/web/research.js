// Shows the rows of a manifest by split and class, and evaluation reports.

import { call } from "./api.js"

const $ = (id) => document.getElementById(id)
const PAGE = 50
let [first, open] = [0, () => {}]

const option = (text, value) => Object.assign(document.createElement("option"), { textContent: text, value })

async function list() {
  const found = await call(`api/material?split=${encodeURIComponent($("split").value)}&label=${encodeURIComponent($("class").value)}&first=${first}`)
  for (const [id, names] of [["split", found.splits], ["class", found.labels]]) {
    if ($(id).options.length === 0) $(id).append(option("all", ""), ...names.map((name) => option(name || "unknown", name)))
  }
  $("material-n").textContent = found.n ? `${first + 1} to ${Math.min(first + PAGE, found.n)} of ${found.n}` : "none"
  $("earlier").disabled = first === 0
  $("later").disabled = first + PAGE >= found.n
  $("rows").replaceChildren(...found.rows.map((row) => {
    const line = document.createElement("tr")
    for (const text of [row.clip_id, row.label, row.split, row.duration_seconds.toFixed(1)]) line.insertCell().textContent = text
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Open" })
    button.setAttribute("aria-label", `Open ${row.clip_id}`)
    button.addEventListener("click", () => open(row.number))
    line.insertCell().append(button)
    return line
  }))
}

export async function begin(here, onOpen) {
  open = onOpen
  for (const id of ["research", "to-research"]) $(id).hidden = !here.manifest && !here.reports
  $("material").hidden = !here.manifest
  $("reports").hidden = !here.reports
  for (const id of ["split", "class"]) $(id).addEventListener("change", () => { first = 0; list() })
  $("earlier").addEventListener("click", () => { first = Math.max(0, first - PAGE); list() })
  $("later").addEventListener("click", () => { first += PAGE; list() })
  if (here.manifest) await list()
  for (const path of here.reports ? await call("api/reports") : []) {
    const item = document.createElement("li")
    item.append(Object.assign(document.createElement("a"), { textContent: path, href: `reports/${path}` }))
    $("report-list").append(item)
  }
}
