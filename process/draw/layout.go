package draw

import (
	"cmp"
	"slices"
)

// graph is what is laid out: from left to right, each node right of those before it.
type graph struct {
	nodes []node
	edges []edge
}

// node is a box; x and y, its upper left corner, are laid out.
type node struct {
	w, h   float64
	x, y   float64
	column int
	row    float64 // order in its column
	bend   bool    // it stands for an edge that passes the column
}

// edge goes from a node to one further right. Its points are laid out.
type edge struct {
	from, to int
	points   []point
}

type point struct{ x, y float64 }

const (
	columnGap = 64
	rowGap    = 26
	margin    = 24
	sweeps    = 6
)

// lay places all nodes and edges and returns the size of the whole. The edges form no
// circles (layered drawing: Sugiyama, Tagawa and Toda 1981). The same graph is always
// drawn alike.
func (g *graph) lay() (width, height float64) {
	own := len(g.nodes)
	chains := g.columns()
	g.rows(chains)
	width, height = g.places()
	for i := range g.edges {
		e := &g.edges[i]
		a, b := g.nodes[e.from], g.nodes[e.to]
		e.points = []point{{a.x + a.w, a.y + a.h/2}}
		for _, bend := range chains[i][1 : len(chains[i])-1] {
			n := g.nodes[bend]
			e.points = append(e.points, point{n.x, n.y + n.h/2}, point{n.x + n.w, n.y + n.h/2})
		}
		e.points = append(e.points, point{b.x, b.y + b.h/2})
	}
	g.nodes = g.nodes[:own]
	return width, height
}

// rank puts each node at least one column right of those before it.
func (g *graph) rank() {
	for changed := true; changed; {
		changed = false
		for _, e := range g.edges {
			if next := g.nodes[e.from].column + 1; g.nodes[e.to].column < next {
				g.nodes[e.to].column, changed = next, true
			}
		}
	}
}

// columns gives each node its column and each edge a chain of nodes, one in each column
// that it passes.
func (g *graph) columns() (chains [][]int) {
	g.rank()
	for _, e := range g.edges {
		chain := []int{e.from}
		for c := g.nodes[e.from].column + 1; c < g.nodes[e.to].column; c++ {
			chain = append(chain, len(g.nodes))
			g.nodes = append(g.nodes, node{column: c, h: 8, bend: true})
		}
		chains = append(chains, append(chain, e.to))
	}
	return chains
}

// rows orders each column by where its neighbours are, going back and forth.
func (g *graph) rows(chains [][]int) {
	before, after := make([][]int, len(g.nodes)), make([][]int, len(g.nodes))
	for _, chain := range chains {
		for i := 1; i < len(chain); i++ {
			before[chain[i]] = append(before[chain[i]], chain[i-1])
			after[chain[i-1]] = append(after[chain[i-1]], chain[i])
		}
	}
	columns := g.byColumn()
	for sweep := range sweeps {
		neighbours := before
		if sweep%2 == 1 {
			neighbours = after
		}
		for c := range columns {
			column := columns[c]
			if sweep%2 == 1 {
				column = columns[len(columns)-1-c]
			}
			wanted := make(map[int]float64, len(column))
			for _, n := range column {
				wanted[n] = g.nodes[n].row
				if near := neighbours[n]; len(near) > 0 {
					sum := 0.0
					for _, o := range near {
						sum += g.nodes[o].row
					}
					wanted[n] = sum / float64(len(near))
				}
			}
			slices.SortStableFunc(column, func(a, b int) int { return cmp.Compare(wanted[a], wanted[b]) })
			for row, n := range column {
				g.nodes[n].row = float64(row) - float64(len(column)-1)/2
			}
		}
	}
}

// byColumn lists the nodes of each column in their order.
func (g *graph) byColumn() (columns [][]int) {
	for n := range g.nodes {
		for len(columns) <= g.nodes[n].column {
			columns = append(columns, nil)
		}
		columns[g.nodes[n].column] = append(columns[g.nodes[n].column], n)
	}
	for _, column := range columns {
		slices.SortStableFunc(column, func(a, b int) int { return cmp.Compare(g.nodes[a].row, g.nodes[b].row) })
		for row, n := range column {
			g.nodes[n].row = float64(row) - float64(len(column)-1)/2
		}
	}
	return columns
}

// places gives coordinates: columns as wide as their widest node, each in the middle.
func (g *graph) places() (width, height float64) {
	columns := g.byColumn()
	tall := make([]float64, len(columns))
	for c, column := range columns {
		for _, n := range column {
			tall[c] += g.nodes[n].h
		}
		tall[c] += rowGap * float64(len(column)-1)
		height = max(height, tall[c])
	}
	x := float64(margin)
	for c, column := range columns {
		wide := 0.0
		for _, n := range column {
			wide = max(wide, g.nodes[n].w)
		}
		y := margin + (height-tall[c])/2
		for _, n := range column {
			at := &g.nodes[n]
			if at.bend {
				at.w = wide
			}
			at.x, at.y = x+(wide-at.w)/2, y
			y += at.h + rowGap
		}
		x += wide + columnGap
	}
	return x - columnGap + margin, height + 2*margin
}
