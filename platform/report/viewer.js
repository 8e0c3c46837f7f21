// Unpacks 3Dmol.js (BSD-3-Clause; its licence is in the packed text) out of this page, and only when asked to.
(() => {
  const part = (name) => document.getElementById(`viewer-${name}`);
  const read = (name) => part(name).textContent;

  async function unpacked() {
    const bytes = Uint8Array.from(atob(read("code")), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  function atoms(data, xyz) {
    const found = data.elements.map((elem, i) => ({
      elem, serial: i, index: i, x: xyz[3 * i], y: xyz[3 * i + 1], z: xyz[3 * i + 2], bonds: [], bondOrder: [],
    }));
    for (const [i, j] of data.bonds) {
      found[i].bonds.push(j); found[i].bondOrder.push(1);
      found[j].bonds.push(i); found[j].bondOrder.push(1);
    }
    return found;
  }

  async function open() {
    part("open").hidden = true;
    const data = JSON.parse(read("data"));
    const script = document.createElement("script");
    script.textContent = await unpacked();
    document.head.append(script);
    part("stage").hidden = part("choices").hidden = false;
    const viewer = window.$3Dmol.createViewer(part("stage"), { backgroundColor: "white", antialias: true });
    const models = data.states.map((state) => {
      const model = viewer.addModel();
      model.addAtoms(atoms(data, state.xyz));
      return model;
    });
    function show(chosen) {
      models.forEach((model, k) => {
        const visible = chosen === k || chosen === models.length;
        model.setStyle({}, visible ? { stick: { radius: 0.13 }, sphere: { scale: 0.2 } } : {});
        model.setStyle({ elem: "H" }, visible ? { stick: { radius: 0.07 }, sphere: { scale: 0.13 } } : {});
      });
      viewer.render();
    }
    const labels = data.states.map((state) => state.label);
    [...labels, ...(labels.length > 1 ? ["all"] : [])].forEach((label, k) => {
      const choice = document.createElement("button");
      choice.type = "button";
      choice.textContent = label;
      choice.addEventListener("click", () => {
        for (const other of part("choices").children) other.setAttribute("aria-pressed", other === choice);
        show(k);
      });
      choice.setAttribute("aria-pressed", k === 0);
      part("choices").append(choice);
    });
    show(0);
    viewer.zoomTo();
    viewer.zoom(1.2);
    viewer.render();
  }

  part("open").addEventListener("click", () => open().catch((error) => {
    part("stage").hidden = part("choices").hidden = true;
    part("note").hidden = false;
    part("note").textContent = `The viewer needs WebGL and a browser of 2023 or later (${error.message || error}).`;
  }));
})();
