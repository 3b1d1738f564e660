// Lists the routes and fields from the server's OpenAPI document.

const $ = (id) => document.getElementById(id)
const found = await (await fetch("api/openapi.json")).json()
const row = (table, ...texts) => { const line = $(table).insertRow(); for (const text of texts) line.insertCell().textContent = text }

for (const [path, methods] of Object.entries(found.paths)) {
  for (const [method, about] of Object.entries(methods)) row("routes", method.toUpperCase(), path, about.description || about.summary || "")
}
for (const [name, prefix] of [["Ask", ""], ["Request", "request."]]) {
  for (const [field, about] of Object.entries(found.components.schemas[name]?.properties || {})) {
    row("fields", prefix + field, "default" in about && typeof about.default !== "object" ? String(about.default) : "", about.description || "")
  }
}
const here = location.href.replace(/api\.html.*$/, "")
$("curl").textContent = [
  "ME='Unsilent-Client: a-secret-of-16-characters-or-more'",
  `curl -H "$ME" -T clip.mp4 "${here}api/inputs?name=clip.mp4"                         # returns an id`,
  `curl -H "$ME" --json '{"input": "ID", "request": {"takes": 2}}' ${here}api/jobs     # returns the job's id`,
  `curl -H "$ME" -N ${here}api/jobs/ID/events                                          # follows the job until it ends`,
  `curl -H "$ME" -OJ "${here}api/jobs/ID/files/take1.mp4?download=true"`,
].join("\n")
